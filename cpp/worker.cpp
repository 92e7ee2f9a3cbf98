#include "worker.hpp"

#include <chrono>

#include "team.hpp"

#ifdef _WIN32
#include <process.h>
static long process_id() { return _getpid(); }
#else
#include <unistd.h>
static long process_id() { return getpid(); }
#endif

namespace gdfast {

Worker::Worker() : process_(process_id()) {}

Worker::~Worker() {
    if (!thread_.joinable()) return;
    if (!alive()) {
        thread_.detach();  // it did not come along into this child
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        quit_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

bool Worker::alive() const { return process_ == process_id(); }

void Worker::loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return quit_ || job_; });
        if (quit_) return end_team();
        const Job& job = *job_;
        lock.unlock();
        try {
            if (threads_ > spread_) spread_team(spread_ = threads_);
            job(cancel_);
        } catch (...) {
            failure_ = std::current_exception();
        }
        lock.lock();
        job_ = nullptr;
        changed_.notify_all();
    }
}

bool Worker::run(const Job& job, int threads, const std::function<bool()>& interrupted) {
    bool stopped = false;
    if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
    std::unique_lock<std::mutex> lock(mutex_);
    cancel_ = false;
    failure_ = nullptr;
    threads_ = threads;
    job_ = &job;
    changed_.notify_all();
    while (!changed_.wait_for(lock, std::chrono::milliseconds(50), [this] { return !job_; })) {
        if (stopped) continue;
        lock.unlock();
        stopped = interrupted();
        if (stopped) cancel_ = true;
        lock.lock();
    }
    if (failure_ && !stopped) std::rethrow_exception(failure_);
    return stopped;
}

}  // namespace gdfast
