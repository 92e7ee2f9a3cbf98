// W lanes of T in one register, and the sums across lanes that narrow rows need. Included by kernels.cpp only.
//
// GCC and Clang have such types built in; other compilers get a struct that their optimiser unrolls.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace gdfast::GDFAST_ISA {

#if defined(__AVX512F__)
inline constexpr int register_bytes = 64;
#elif defined(__AVX2__)
inline constexpr int register_bytes = 32;
#else
inline constexpr int register_bytes = 16;
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define GDFAST_VECTORS 1
#endif
#endif

#ifdef GDFAST_VECTORS
template <class T, int W>
struct VectorOf {
    typedef T type __attribute__((vector_size(W * sizeof(T))));
};
#else
template <class T, int W>
struct Lanes {
    T lane[W];
    T& operator[](int i) { return lane[i]; }
    T operator[](int i) const { return lane[i]; }
    friend Lanes operator+(Lanes a, Lanes b) {
        for (int i = 0; i < W; ++i) a.lane[i] += b.lane[i];
        return a;
    }
    friend Lanes operator*(Lanes a, Lanes b) {
        for (int i = 0; i < W; ++i) a.lane[i] *= b.lane[i];
        return a;
    }
    friend Lanes operator*(T a, Lanes b) {
        for (int i = 0; i < W; ++i) b.lane[i] *= a;
        return b;
    }
    Lanes& operator+=(Lanes b) { return *this = *this + b; }
};
template <class T, int W>
struct VectorOf {
    using type = Lanes<T, W>;
};
#endif

template <class T, int W>
using Vector = typename VectorOf<T, W>::type;

template <class T>
inline constexpr int native_lanes = register_bytes / int(sizeof(T));

template <int W, class T>
inline Vector<T, W> load(const T* p) {
    Vector<T, W> v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}

template <int W, class T>
inline void store(T* p, Vector<T, W> v) {
    std::memcpy(p, &v, sizeof(v));
}

template <int W, class T>
inline Vector<T, W> zero() {
    Vector<T, W> v;
    std::memset(&v, 0, sizeof(v));
    return v;
}

// N numbers that lie side by side, in as many registers as they fill.
template <int N, class T>
struct Numbers {
    static constexpr int W = N < native_lanes<T> ? N : native_lanes<T>, C = N / W;
    Vector<T, W> v[C];
    explicit Numbers(const T* p) {
        for (int c = 0; c < C; ++c) v[c] = load<W>(p + c * W);
    }
    Numbers() {
        for (int c = 0; c < C; ++c) v[c] = zero<W, T>();
    }
    void add(T x, const Numbers& other) {
        for (int c = 0; c < C; ++c) v[c] += x * other.v[c];
    }
    void scale(T x) {
        for (int c = 0; c < C; ++c) v[c] = x * v[c];
    }
    void store_to(T* p) const {
        for (int c = 0; c < C; ++c) store<W>(p + c * W, v[c]);
    }
};

// The last W values ending at p + d, with those before p + d - rest set to zero (they belong to the vector before).
template <int W, class T>
inline Vector<T, W> load_tail(const T* p, Index d, int rest) {
    Vector<T, W> v = load<W>(p + d - W);
    for (int i = 0; i < W - rest; ++i) v[i] = 0;
    return v;
}

// 0 in the first W - rest lanes, 1 in the others
template <int W, class T>
inline Vector<T, W> tail_mask(int rest) {
    Vector<T, W> v;
    for (int i = 0; i < W; ++i) v[i] = i < W - rest ? T(0) : T(1);
    return v;
}

// Lane by lane: the sum and the larger one of two vectors.
struct Sum {
    template <class V>
    V operator()(const V& a, const V& b) const {
        return a + b;
    }
};
struct Larger {
    template <class V>
    V operator()(const V& a, const V& b) const {
#ifdef GDFAST_VECTORS
        return a > b ? a : b;
#else
        V larger = a;
        for (int i = 0; i < int(sizeof(V) / sizeof(a[0])); ++i) larger[i] = a[i] > b[i] ? a[i] : b[i];
        return larger;
#endif
    }
};

// One round of the sum (or of what else Op does) across lanes. Every vector holds W / Group groups of Group partial sums; a
// and b are merged into one vector that holds the groups of both, halved.
template <int Group, int W, class T, class Op = Sum, int... I>
inline Vector<T, W> merge(Vector<T, W> a, Vector<T, W> b, std::integer_sequence<int, I...>) {
    constexpr int half = Group / 2;
#ifdef GDFAST_VECTORS
    return Op()(__builtin_shufflevector(a, b, (I / Group * Group + (I % Group < half ? I % Group : W + I % Group - half))...),
                __builtin_shufflevector(a, b, (I / Group * Group + (I % Group < half ? I % Group + half : W + I % Group))...));
#else
    Vector<T, W> first, second;
    for (int i = 0; i < W; ++i) {
        const int base = i / Group * Group, place = i % Group;
        first[i] = place < half ? a[base + place] : b[base + place - half];
        second[i] = place < half ? a[base + place + half] : b[base + place];
    }
    return Op()(first, second);
#endif
}

// Lane i of the result is the sum over the lanes of v[i], by the tree that sum_of_lanes follows. v is overwritten.
template <int W, class T, class Op = Sum, int Group = W>
inline Vector<T, W> sums_of_rows(Vector<T, W>* v) {
    if constexpr (Group == 1) {
        return v[0];
    } else {
        constexpr int half = Group / 2;
        for (int i = 0; i < half; ++i) v[i] = merge<Group, W, T, Op>(v[i], v[i + half], std::make_integer_sequence<int, W>{});
        return sums_of_rows<W, T, Op, half>(v);
    }
}

// The sum over the lanes of one vector, by the tree that sums_of_rows follows: the same bits either way.
template <int W, class T, int Group = W>
inline T sum_of_lanes(Vector<T, W> v) {
    if constexpr (Group == 1)
        return v[0];
    else
        return sum_of_lanes<W, T, Group / 2>(merge<Group, W, T>(v, v, std::make_integer_sequence<int, W>{}));
}

}  // namespace gdfast::GDFAST_ISA
