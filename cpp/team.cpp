#include "team.hpp"

#ifdef __linux__
#include <sched.h>

#include <atomic>
#include <chrono>
#include <thread>
#endif

namespace gdfast {

void spread_team([[maybe_unused]] int threads) {
#if defined(__linux__) && defined(_OPENMP)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < threads) return;
    const int home = sched_getcpu();
    std::atomic<int> arrived{0};
#pragma omp parallel num_threads(threads)
    {
        // The creator goes one core on, which frees its core for the new ones to run and to leave in turn.
        int left = thread_number() + 1, cpu = home < 0 ? 0 : home;
        while (!CPU_ISSET(cpu, &allowed) || left-- > 0) cpu = (cpu + 1) % CPU_SETSIZE;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        // moved, and free again to be moved by the scheduler
        if (sched_setaffinity(0, sizeof(one), &one) == 0) sched_setaffinity(0, sizeof(allowed), &allowed);
        // asleep: who waits behind this one for the same core has yet to leave it
        for (++arrived; arrived < team_size();) std::this_thread::sleep_for(std::chrono::microseconds(5));
    }
#endif
}

void end_team() {
    // libgomp pauses the pool of the calling thread, and only that; LLVM's runtime would stop everybody's
#if defined(_OPENMP) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9
    omp_pause_resource_all(omp_pause_hard);
#endif
}

}  // namespace gdfast
