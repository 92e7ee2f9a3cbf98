// Vectors that begin where a cache line does: a register that crosses two lines is read twice.
#pragma once
#include <new>
#include <vector>

namespace gdfast {

template <class T>
struct AlignedAllocator {
    using value_type = T;
    static constexpr std::align_val_t line{64};
    AlignedAllocator() = default;
    template <class U>
    AlignedAllocator(const AlignedAllocator<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, line); }
    template <class U>
    bool operator==(const AlignedAllocator<U>&) const {
        return true;
    }
    template <class U>
    bool operator!=(const AlignedAllocator<U>&) const {
        return false;
    }
};

template <class T>
using Aligned = std::vector<T, AlignedAllocator<T>>;

}  // namespace gdfast
