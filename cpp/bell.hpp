// Wakes a thread that waits for it.
//
// By a pipe: the kernel takes its writer for one about to sleep, and has the reader go on where the writer leaves. A condition
// variable wakes it as often as not on the core where a member of a team spins, to wait there for the next tick (measured: 3
// to 7 ms).
#pragma once

#ifdef _WIN32
#include <chrono>
#include <condition_variable>
#include <mutex>
#else
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#endif

namespace gdfast {

#ifdef _WIN32
class Bell {
public:
    void ring() {
        std::lock_guard<std::mutex> lock(mutex_);
        rung_ = true;
        changed_.notify_one();
    }
    bool wait(int milliseconds) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!changed_.wait_for(lock, std::chrono::milliseconds(milliseconds), [this] { return rung_; })) return false;
        rung_ = false;
        return true;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool rung_ = false;
};
#else
class Bell {
public:
    Bell() {
        if (pipe(ends_) != 0) throw std::system_error(errno, std::generic_category(), "no pipe to a worker");
        for (int end : ends_) fcntl(end, F_SETFD, FD_CLOEXEC);
    }
    ~Bell() {
        for (int end : ends_) close(end);
    }
    Bell(const Bell&) = delete;
    Bell& operator=(const Bell&) = delete;
    void ring() {
        while (write(ends_[1], "", 1) < 0 && errno == EINTR) {
        }
    }
    // Was it rung? A signal ends the wait early.
    bool wait(int milliseconds) {
        pollfd rung{ends_[0], POLLIN, 0};
        char byte;
        return poll(&rung, 1, milliseconds) > 0 && read(ends_[0], &byte, 1) == 1;
    }

private:
    int ends_[2];
};
#endif

}  // namespace gdfast
