#pragma once

#include <span>

#include "plugin/formats/byte_stream.h"

namespace moetap::plugin {

// Note [Packed reals]
// Neighbouring logits have exponents of about one size, and those of a model in bfloat16 have few bits in their
// mantissas. So floats are written without loss as
//
//   u8 bits of mantissas that are kept | u8 largest exponent | for each float: exponent, sign, mantissa
//
// An exponent is how far it lies below the largest: half of that as so many zero bits and a one, then the odd bit; from
// kLongExponent on, as many zero bits and the exponent in 8 bits. About 27 bits a float32, 11 bits a bfloat16.

/// Writes the floats; the reader must know how many there are.
void write_packed(ByteWriter& bytes, std::span<const float> values);
/// Throws std::runtime_error if the bytes end early.
void read_packed(ByteReader& bytes, std::span<float> values);

}  // namespace moetap::plugin
