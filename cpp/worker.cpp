#include "worker.hpp"

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
    called_.ring();
    thread_.join();
}

bool Worker::alive() const { return process_ == process_id(); }

void Worker::loop() {
    constexpr int lifetime = 100;  // milliseconds without a job
    for (;;) {
        const bool called = called_.wait(lifetime);
        std::unique_lock<std::mutex> lock(mutex_);
        if (quit_ || (!called && !job_)) {
            end_team();
            started_ = false;
            return;
        }
        if (!called) continue;
        const Job& job = *job_;
        lock.unlock();
        try {
            if (threads_ > spread_ || (threads_ > 1 && since(team_ended_) > patience)) spread_team(spread_ = threads_);
            job(cancel_);
        } catch (...) {
            failure_ = std::current_exception();
        }
        lock.lock();
        ended_ = Clock::now();
        if (threads_ > 1) team_ended_ = ended_;
        job_ = nullptr;
        lock.unlock();
        done_.ring();
    }
}

bool Worker::run(const Job& job, int threads, const std::function<bool()>& interrupted) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!started_) {
            if (thread_.joinable()) thread_.join();  // it has ended itself
            spread_ = 1;
            thread_ = std::thread([this] { loop(); });
            started_ = true;
        }
        cancel_ = false;
        failure_ = nullptr;
        threads_ = threads;
        job_ = &job;
    }
    called_.ring();
    bool stopped = false;
    while (!done_.wait(50))
        if (!stopped && interrupted()) cancel_ = stopped = true;
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_ && !stopped) std::rethrow_exception(failure_);
    return stopped;
}

// In a forked child the parent's worker is left as it is.
static thread_local struct Owner {
    Worker* worker = nullptr;
    ~Owner() { end(); }
    void end() {
        if (worker && worker->alive()) delete worker;
        worker = nullptr;
    }
} owner;

Worker& worker_of_this_thread() {
    if (!owner.worker || !owner.worker->alive()) owner.worker = new Worker;
    return *owner.worker;
}

void end_worker_of_this_thread() { owner.end(); }

}  // namespace gdfast
