// Which instruction sets there are, and which one is in use.
#pragma once
#include <string>
#include <vector>

#include "kernels.hpp"

namespace gdfast {

struct InstructionSet {
    const char* name;
    const Kernels<float>* f32;
    const Kernels<double>* f64;
};

template <class T>
const Kernels<T>& table_of(const InstructionSet& isa);
template <>
inline const Kernels<float>& table_of(const InstructionSet& isa) {
    return *isa.f32;
}
template <>
inline const Kernels<double>& table_of(const InstructionSet& isa) {
    return *isa.f64;
}

// Those this machine can run, best first; there is at least one.
const std::vector<InstructionSet>& available();
// The best one, unless GDFAST_ISA or use() chose another.
const InstructionSet& active();
// Throws std::invalid_argument, naming the choices, where `name` is not available.
void use(const std::string& name);

}  // namespace gdfast
