#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <type_traits>

#include "analysis/numbers/token_kernels.h"
#include "analysis/numbers/vector_math.h"

// Note [Lanes]
// A sum over experts is eight partial sums (lane l adds experts l, l + 8, ...) that are joined in one fixed order. That
// is the order of eight-wide vectors. Since it is written out, narrower vectors give the same bits: a token's values do
// not depend on the processor, nor on the tokens around it. Multiplications and additions are fused where `fused` says
// so and nowhere else (the files are compiled without contraction), since a fused one has other bits.
//
// Note [Tokens side by side]
// The functions of vector_math.h are one long chain of operations, each of which waits for the one before. A processor
// has room for few operations that wait, so it keeps busy only if several chains are interleaved in the program:
// operations are written for a `Group`: the lanes of one token (Lanes), of two or of four.
//
// Everything here has internal linkage: the files that include it are compiled for different instruction sets.
// MOETAP_VECTOR_BYTES: the size of a register.
#define MOETAP_ALWAYS_INLINE inline __attribute__((always_inline))

namespace moetap::analysis {
namespace {

// Beside those of groups.
using analysis::from_bits;
using analysis::select;
using analysis::to_bits;

// As wide as the processor's registers: the compiler makes poor code of wider vectors.
using VectorReals = double __attribute__((vector_size(MOETAP_VECTOR_BYTES)));
using VectorBits = uint64_t __attribute__((vector_size(MOETAP_VECTOR_BYTES)));
using VectorInts = int64_t __attribute__((vector_size(MOETAP_VECTOR_BYTES)));

// An operation of two vectors, or of a vector and a number.
#define MOETAP_OPERATION(VECTOR, RESULT, OPERATOR, NUMBER)                                 \
  MOETAP_ALWAYS_INLINE friend RESULT operator OPERATOR(const VECTOR& x, const VECTOR& y) { \
    return RESULT{x.v OPERATOR y.v};                                                       \
  }                                                                                        \
  MOETAP_ALWAYS_INLINE friend RESULT operator OPERATOR(const VECTOR& x, NUMBER y) {        \
    return RESULT{x.v OPERATOR y};                                                         \
  }

struct Mask {
  VectorInts v;  // -1 or 0

  MOETAP_ALWAYS_INLINE friend Mask operator&(const Mask& x, const Mask& y) { return Mask{x.v & y.v}; }
  MOETAP_ALWAYS_INLINE friend Mask operator|(const Mask& x, const Mask& y) { return Mask{x.v | y.v}; }
};

struct Bits {
  VectorBits v;

  MOETAP_OPERATION(Bits, Bits, +, uint64_t)
  MOETAP_OPERATION(Bits, Bits, -, uint64_t)
  MOETAP_ALWAYS_INLINE friend Bits operator<<(const Bits& x, int count) { return Bits{x.v << count}; }
  MOETAP_ALWAYS_INLINE friend Bits operator>>(const Bits& x, int count) { return Bits{x.v >> count}; }
};

struct Vector {
  VectorReals v;

  Vector() = default;
  MOETAP_ALWAYS_INLINE explicit Vector(const VectorReals& values) : v(values) {}
  MOETAP_ALWAYS_INLINE explicit Vector(double x) {
    for (size_t i = 0; i < sizeof(v) / sizeof(x); ++i) v[i] = x;
  }

  MOETAP_OPERATION(Vector, Vector, +, double)
  MOETAP_OPERATION(Vector, Vector, -, double)
  MOETAP_OPERATION(Vector, Vector, *, double)
  MOETAP_OPERATION(Vector, Vector, /, double)
  MOETAP_OPERATION(Vector, Mask, <, double)
  MOETAP_OPERATION(Vector, Mask, >=, double)
  MOETAP_OPERATION(Vector, Mask, <=, double)
  MOETAP_OPERATION(Vector, Mask, ==, double)
};
#undef MOETAP_OPERATION

MOETAP_ALWAYS_INLINE Vector select(const Mask& mask, const Vector& yes, const Vector& no) {
  return Vector(mask.v ? yes.v : no.v);
}
MOETAP_ALWAYS_INLINE Bits to_bits(const Vector& x) {
  return Bits{reinterpret_cast<VectorBits>(x.v)};
}
MOETAP_ALWAYS_INLINE Vector from_bits(const Bits& x) {
  return Vector(reinterpret_cast<VectorReals>(x.v));
}

/// x * y + z, rounded once. The baseline of x86 has no such instruction: it calls libm there.
MOETAP_ALWAYS_INLINE Vector fused(const Vector& x, const Vector& y, const Vector& z) {
#if defined(__AVX512F__) && MOETAP_VECTOR_BYTES == 64
  return Vector(VectorReals(_mm512_fmadd_pd(x.v, y.v, z.v)));
#elif defined(__FMA__) && MOETAP_VECTOR_BYTES == 32
  return Vector(VectorReals(_mm256_fmadd_pd(x.v, y.v, z.v)));
#else
  Vector result;
  for (size_t i = 0; i < sizeof(x.v) / sizeof(double); ++i) result.v[i] = __builtin_fma(x.v[i], y.v[i], z.v[i]);
  return result;
#endif
}

/// The larger or the smaller one; y where one of them is NaN. (GCC 12 warns of the plain intrinsics, which leave a
/// value that they do not use undefined; those with a mask become the same instruction.)
MOETAP_ALWAYS_INLINE Vector larger(const Vector& x, const Vector& y) {
#if defined(__AVX512F__) && MOETAP_VECTOR_BYTES == 64
  return Vector(VectorReals(_mm512_maskz_max_pd(0xff, x.v, y.v)));
#elif defined(__AVX__) && MOETAP_VECTOR_BYTES == 32
  return Vector(VectorReals(_mm256_max_pd(x.v, y.v)));
#else
  return Vector(x.v > y.v ? x.v : y.v);
#endif
}
MOETAP_ALWAYS_INLINE Vector smaller(const Vector& x, const Vector& y) {
#if defined(__AVX512F__) && MOETAP_VECTOR_BYTES == 64
  return Vector(VectorReals(_mm512_maskz_min_pd(0xff, x.v, y.v)));
#elif defined(__AVX__) && MOETAP_VECTOR_BYTES == 32
  return Vector(VectorReals(_mm256_min_pd(x.v, y.v)));
#else
  return Vector(x.v < y.v ? x.v : y.v);
#endif
}

enum class Beside { kLanes, kTokens };

/// Two of what Part is: the lower and the upper lanes of the same tokens, or two tokens.
template <typename Part, Beside kBeside>
struct Pair {
  Part a, b;

  Pair() = default;
  MOETAP_ALWAYS_INLINE Pair(const Part& first, const Part& second) : a(first), b(second) {}
  MOETAP_ALWAYS_INLINE explicit Pair(double x) : a(x), b(x) {}
};

template <Beside kBeside, typename Part>
MOETAP_ALWAYS_INLINE Pair<Part, kBeside> pair_of(const Part& a, const Part& b) {
  return {a, b};
}

#define MOETAP_OPERATION(OPERATOR)                                                                                \
  template <typename Part, Beside kBeside>                                                                        \
  MOETAP_ALWAYS_INLINE auto operator OPERATOR(const Pair<Part, kBeside>& x, const Pair<Part, kBeside>& y) {       \
    return pair_of<kBeside>(x.a OPERATOR y.a, x.b OPERATOR y.b);                                                  \
  }                                                                                                               \
  template <typename Part, Beside kBeside, typename Number>                                                       \
  requires std::is_arithmetic_v<Number> MOETAP_ALWAYS_INLINE auto operator OPERATOR(const Pair<Part, kBeside>& x, \
                                                                                    Number y) {                   \
    return pair_of<kBeside>(x.a OPERATOR y, x.b OPERATOR y);                                                      \
  }
MOETAP_OPERATION(+)
MOETAP_OPERATION(-)
MOETAP_OPERATION(*)
MOETAP_OPERATION(/)
MOETAP_OPERATION(<)
MOETAP_OPERATION(>=)
MOETAP_OPERATION(<=)
MOETAP_OPERATION(==)
MOETAP_OPERATION(&)
MOETAP_OPERATION(|)
MOETAP_OPERATION(<<)
MOETAP_OPERATION(>>)
#undef MOETAP_OPERATION

template <typename M, typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE Pair<Part, kBeside> select(const Pair<M, kBeside>& mask, const Pair<Part, kBeside>& yes,
                                                const Pair<Part, kBeside>& no) {
  return {select(mask.a, yes.a, no.a), select(mask.b, yes.b, no.b)};
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE auto to_bits(const Pair<Part, kBeside>& x) {
  return pair_of<kBeside>(to_bits(x.a), to_bits(x.b));
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE auto from_bits(const Pair<Part, kBeside>& x) {
  return pair_of<kBeside>(from_bits(x.a), from_bits(x.b));
}

template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE Pair<Part, kBeside> fused(const Pair<Part, kBeside>& x, const Pair<Part, kBeside>& y,
                                               const Pair<Part, kBeside>& z) {
  return {fused(x.a, y.a, z.a), fused(x.b, y.b, z.b)};
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE Pair<Part, kBeside> larger(const Pair<Part, kBeside>& x, const Pair<Part, kBeside>& y) {
  return {larger(x.a, y.a), larger(x.b, y.b)};
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE Pair<Part, kBeside> smaller(const Pair<Part, kBeside>& x, const Pair<Part, kBeside>& y) {
  return {smaller(x.a, y.a), smaller(x.b, y.b)};
}

template <int kBytes>
struct LanesOfBytes {
  using Half = typename LanesOfBytes<kBytes / 2>::Type;
  using Type = Pair<Half, Beside::kLanes>;
};
template <>
struct LanesOfBytes<MOETAP_VECTOR_BYTES> {
  using Type = Vector;
};
using Lanes = LanesOfBytes<kLanes * sizeof(double)>::Type;
using TwoTokens = Pair<Lanes, Beside::kTokens>;
using FourTokens = Pair<TwoTokens, Beside::kTokens>;

using LanesBits = decltype(to_bits(Lanes()));

/// Tokens of a group.
template <typename Group>
inline constexpr int kTokensOf = 1;
template <typename Part>
inline constexpr int kTokensOf<Pair<Part, Beside::kTokens>> = 2 * kTokensOf<Part>;

/// From the start of the first part of a pair to that of the second, in values.
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE int64_t to_second(const Pair<Part, kBeside>&, int64_t stride) {
  if (kBeside == Beside::kTokens) return kTokensOf<Part> * stride;
  return static_cast<int64_t>(sizeof(Part) / sizeof(double));
}

/// Eight values of each token; those of the next token are `stride` further.
MOETAP_ALWAYS_INLINE void load(const double* values, int64_t, Vector& out) {
  __builtin_memcpy(&out.v, values, sizeof(out.v));
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE void load(const double* values, int64_t stride, Pair<Part, kBeside>& out) {
  load(values, stride, out.a);
  load(values + to_second(out, stride), stride, out.b);
}

/// The first `number` values, then zeros; what lies behind them is not read.
MOETAP_ALWAYS_INLINE void load_part(const double* values, int64_t number, Lanes& out) {
  if (number >= kLanes) return load(values, 0, out);
#if defined(__AVX512F__) && MOETAP_VECTOR_BYTES == 64
  out.v = VectorReals(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << number) - 1), values));
#else
  double padded[kLanes] = {};
  for (int64_t i = 0; i < number; ++i) padded[i] = values[i];
  load(padded, 0, out);
#endif
}

MOETAP_ALWAYS_INLINE void store(const Vector& vector, double* values, int64_t) {
  __builtin_memcpy(values, &vector.v, sizeof(vector.v));
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE void store(const Pair<Part, kBeside>& group, double* values, int64_t stride) {
  store(group.a, values, stride);
  store(group.b, values + to_second(group, stride), stride);
}

/// One value for all lanes of each token.
MOETAP_ALWAYS_INLINE void broadcast(const double* of_tokens, Vector& out) {
  out = Vector(*of_tokens);
}
template <typename Part, Beside kBeside>
MOETAP_ALWAYS_INLINE void broadcast(const double* of_tokens, Pair<Part, kBeside>& out) {
  broadcast(of_tokens, out.a);
  broadcast(of_tokens + (kBeside == Beside::kTokens ? kTokensOf<Part> : 0), out.b);
}

/// The same lanes for each token.
MOETAP_ALWAYS_INLINE void repeat(const Lanes& lanes, Lanes& out) {
  out = lanes;
}
template <typename Part>
MOETAP_ALWAYS_INLINE void repeat(const Lanes& lanes, Pair<Part, Beside::kTokens>& out) {
  repeat(lanes, out.a);
  repeat(lanes, out.b);
}

/// The sum over the tokens of a group.
MOETAP_ALWAYS_INLINE LanesBits sum_of_tokens(const LanesBits& bits) {
  return bits;
}
template <typename Part>
MOETAP_ALWAYS_INLINE LanesBits sum_of_tokens(const Pair<Part, Beside::kTokens>& bits) {
  return sum_of_tokens(bits.a) + sum_of_tokens(bits.b);
}

using TwoReals = double __attribute__((vector_size(16)));
using FourReals = double __attribute__((vector_size(32)));
using EightReals = double __attribute__((vector_size(64)));

/// Joins the lanes of each token: see Note [Lanes]. The upper half is always joined with the lower.
template <typename Join>
MOETAP_ALWAYS_INLINE double joined(const TwoReals& x, const Join& both) {
  return both(x[0], x[1]);
}
template <typename Join>
MOETAP_ALWAYS_INLINE double joined(const FourReals& x, const Join& both) {
  return joined(both(__builtin_shufflevector(x, x, 0, 1), __builtin_shufflevector(x, x, 2, 3)), both);
}
template <typename Join>
MOETAP_ALWAYS_INLINE double joined(const EightReals& x, const Join& both) {
  return joined(both(__builtin_shufflevector(x, x, 0, 1, 2, 3), __builtin_shufflevector(x, x, 4, 5, 6, 7)), both);
}
template <typename Join>
MOETAP_ALWAYS_INLINE void join(const Vector& vector, const Join& both, double* of_tokens) {
  *of_tokens = joined(vector.v, both);
}
template <typename Part, typename Join>
MOETAP_ALWAYS_INLINE void join(const Pair<Part, Beside::kLanes>& lanes, const Join& both, double* of_tokens) {
  join(both(lanes.a, lanes.b), both, of_tokens);
}
template <typename Part, typename Join>
MOETAP_ALWAYS_INLINE void join(const Pair<Part, Beside::kTokens>& group, const Join& both, double* of_tokens) {
  join(group.a, both, of_tokens);
  join(group.b, both, of_tokens + kTokensOf<Part>);
}

// The widest groups are joined side by side, in the same order, with half as many instructions.
#if MOETAP_VECTOR_BYTES == 32
template <typename Join>
MOETAP_ALWAYS_INLINE void join(const TwoTokens& group, const Join& both, double* of_tokens) {
  const FourReals x = both(group.a.a, group.a.b).v, y = both(group.b.a, group.b.b).v;
  const FourReals pairs = both(__builtin_shufflevector(x, y, 0, 1, 4, 5), __builtin_shufflevector(x, y, 2, 3, 6, 7));
  const TwoReals tokens =
      both(__builtin_shufflevector(pairs, pairs, 0, 2), __builtin_shufflevector(pairs, pairs, 1, 3));
  __builtin_memcpy(of_tokens, &tokens, sizeof(tokens));
}
#elif MOETAP_VECTOR_BYTES == 64
/// Four numbers of x, then four of y.
template <typename Join>
MOETAP_ALWAYS_INLINE EightReals halves_joined(const Vector& x, const Vector& y, const Join& both) {
  return both(__builtin_shufflevector(x.v, y.v, 0, 1, 2, 3, 8, 9, 10, 11),
              __builtin_shufflevector(x.v, y.v, 4, 5, 6, 7, 12, 13, 14, 15));
}
template <typename Join>
MOETAP_ALWAYS_INLINE void join(const FourTokens& group, const Join& both, double* of_tokens) {
  const EightReals a = halves_joined(group.a.a, group.a.b, both), b = halves_joined(group.b.a, group.b.b, both);
  const EightReals pairs = both(__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13),
                                __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15));
  const FourReals tokens =
      both(__builtin_shufflevector(pairs, pairs, 0, 2, 4, 6), __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7));
  __builtin_memcpy(of_tokens, &tokens, sizeof(tokens));
}
#endif

struct Sum {
  template <typename Real>
  MOETAP_ALWAYS_INLINE Real operator()(const Real& x, const Real& y) const {
    return x + y;
  }
};
struct Maximum {
  template <typename Real>
  MOETAP_ALWAYS_INLINE Real operator()(const Real& x, const Real& y) const {
    if constexpr (std::is_class_v<Real>) return select(x < y, y, x);
    if constexpr (!std::is_class_v<Real>) return x < y ? y : x;
  }
};
struct Minimum {
  template <typename Real>
  MOETAP_ALWAYS_INLINE Real operator()(const Real& x, const Real& y) const {
    if constexpr (std::is_class_v<Real>) return select(y < x, y, x);
    if constexpr (!std::is_class_v<Real>) return y < x ? y : x;
  }
};

}  // namespace
}  // namespace moetap::analysis
