// A native thread that does the parallel work of one Python thread, while that one waits and looks for signals.
//
// libgomp keeps a pool of threads for each thread that starts a parallel region. Work that is always started from a thread
// of ours leaves no pool behind in the threads of Python, so that none is missing after a fork, where waiting for its lost
// members would hang. Its pool stays warm from call to call: to start a team anew costs more than many a call (measured: up
// to 8 ms, until the scheduler has given its members cores). A worker that nobody calls ends itself soon.
#pragma once
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "bell.hpp"

namespace gdfast {

using Job = std::function<void(const std::atomic<bool>& cancel)>;

class Worker {
public:
    Worker();
    ~Worker();
    Worker(const Worker&) = delete;
    // Runs `job` on the worker with a team of up to `threads` and waits; asks `interrupted` every 50 ms and, once that is
    // true, tells the job to stop. Returns whether it was interrupted; throws what the job threw.
    bool run(const Job& job, int threads, const std::function<bool()>& interrupted);
    // false in a forked child, which has the object but not the thread
    bool alive() const;
    // Has there been no job for a while? To wake the team costs some 100 microseconds.
    bool rested() const { return since(ended_) > patience; }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr auto patience = std::chrono::milliseconds(5);  // after less of it a team still spins
    static Clock::duration since(Clock::time_point t) { return Clock::now() - t; }
    void loop();
    std::mutex mutex_;
    Bell called_, done_;
    const Job* job_ = nullptr;
    std::exception_ptr failure_;
    std::atomic<bool> cancel_{false};
    bool quit_ = false;
    bool started_ = false;
    Clock::time_point ended_{}, team_ended_{};  // the last job, the last one of a team
    int threads_ = 1, spread_ = 1;
    long process_;
    std::thread thread_;
};

// The worker of the calling thread; it stays until it is ended, the thread ends, or nobody has called it for a while.
Worker& worker_of_this_thread();
void end_worker_of_this_thread();

}  // namespace gdfast
