#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace gdfast {

#define GDFAST_DECLARE(isa)                   \
    namespace isa {                           \
    extern const Kernels<float> kernels_f32;  \
    extern const Kernels<double> kernels_f64; \
    }
#ifdef GDFAST_HAVE_AVX512
GDFAST_DECLARE(avx512)
#endif
#ifdef GDFAST_HAVE_AVX2
GDFAST_DECLARE(avx2)
#endif
GDFAST_DECLARE(baseline)

const std::vector<InstructionSet>& available() {
    static const std::vector<InstructionSet> list = [] {
        std::vector<InstructionSet> found;
        // the builtin asks the operating system too (XCR0), not only the processor
#ifdef GDFAST_HAVE_AVX512
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
            __builtin_cpu_supports("bmi2"))
            found.push_back({"avx512", &avx512::kernels_f32, &avx512::kernels_f64});
#endif
#ifdef GDFAST_HAVE_AVX2
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
            found.push_back({"avx2", &avx2::kernels_f32, &avx2::kernels_f64});
#endif
        found.push_back({"baseline", &baseline::kernels_f32, &baseline::kernels_f64});
        return found;
    }();
    return list;
}

static const InstructionSet* find(const std::string& name) {
    std::string names;
    for (const InstructionSet& isa : available()) {
        if (name == isa.name) return &isa;
        names += (names.empty() ? "" : ", ") + std::string(isa.name);
    }
    throw std::invalid_argument("instruction set '" + name + "' is not available on this machine; available: " + names);
}

static std::atomic<const InstructionSet*> chosen{nullptr};

const InstructionSet& active() {
    const InstructionSet* isa = chosen.load(std::memory_order_acquire);
    if (!isa) {
        const char* forced = std::getenv("GDFAST_ISA");
        isa = forced && *forced ? find(forced) : &available().front();
        chosen.store(isa, std::memory_order_release);
    }
    return *isa;
}

void use(const std::string& name) { chosen.store(find(name), std::memory_order_release); }

}  // namespace gdfast
