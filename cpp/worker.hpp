// A native thread that does the parallel work of one Python thread, while that one waits and looks for signals.
//
// libgomp keeps a pool of threads for each thread that starts a parallel region. Work that is always started from a thread
// of ours leaves no pool behind in the threads of Python, so that none is missing after a fork, where waiting for its lost
// members would hang. A worker lives as long as one fit: its pool stays warm from call to call, and nothing is left behind.
#pragma once
#include <atomic>
#include <functional>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

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

private:
    void loop();
    std::mutex mutex_;
    std::condition_variable changed_;
    const Job* job_ = nullptr;
    std::exception_ptr failure_;
    std::atomic<bool> cancel_{false};
    bool quit_ = false;
    int threads_ = 1, spread_ = 1;
    long process_;
    std::thread thread_;
};

}  // namespace gdfast
