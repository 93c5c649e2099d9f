#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace moetap::hooks {

/// A dimension of an argument of the method. `argument` counts its Tensor and Tensor? arguments, as `moetap::begin`
/// gets them.
struct ArgumentDim {
  int64_t argument = 0;
  int64_t dim = 0;
  int64_t rank = 0;  // dimensions that the argument has where this holds

  bool operator==(const ArgumentDim&) const = default;
};

enum class TokenDimRole { kBatch, kSequence, kOther };

inline const char* to_string(TokenDimRole role) {
  switch (role) {
    case TokenDimRole::kBatch:
      return "batch";
    case TokenDimRole::kSequence:
      return "sequence";
    case TokenDimRole::kOther:
      break;
  }
  return "other";
}

/// One of the dimensions that the tokens of a router run along.
struct TokenDim {
  TokenDimRole role = TokenDimRole::kOther;
  // The same dimension of one or more arguments: its size is the largest of those that are given, since the others are
  // absent or repeated. Empty: no argument's.
  std::vector<ArgumentDim> arguments = {};
  int64_t size = 0;                  // where it is no argument's; 0: known only in the run
  std::vector<TokenDim> parts = {};  // of a concatenation, in order: image and text. `role` of a part has no meaning.

  bool operator==(const TokenDim&) const = default;
};

/// How an argument of two dimensions relates to the tokens.
enum class MaskDims {
  kUnknown,     // the graph does not tell
  kTokens,      // [batch, sequence]
  kTransposed,  // [sequence, batch]
  kBuffer,      // [batch, places of a buffer of keys that is as long in each forward]: a static cache
  kOther,       // something else: [sequence, sequence], or another text's
};

inline const char* to_string(MaskDims dims) {
  switch (dims) {
    case MaskDims::kTokens:
      return "tokens";
    case MaskDims::kTransposed:
      return "transposed";
    case MaskDims::kBuffer:
      return "buffer";
    case MaskDims::kOther:
      return "other";
    case MaskDims::kUnknown:
      break;
  }
  return "unknown";
}

/// What the numbers of a mask mean, as far as the graph tells.
enum class MaskMeans {
  kAuto,      // not known
  kValid,     // not 0: a token
  kPadding,   // not 0: padding
  kAdditive,  // added to attention scores: very negative for padding
};

inline const char* to_string(MaskMeans means) {
  switch (means) {
    case MaskMeans::kValid:
      return "valid";
    case MaskMeans::kPadding:
      return "padding";
    case MaskMeans::kAdditive:
      return "additive";
    case MaskMeans::kAuto:
      break;
  }
  return "auto";
}

struct TokenMask {
  int64_t argument = 0;
  MaskDims dims = MaskDims::kUnknown;
  MaskMeans means = MaskMeans::kAuto;
  int64_t places = -1;  // kBuffer: the argument that says which columns are the tokens'; -1: the graph does not tell

  bool operator==(const TokenMask&) const = default;
};

/// How numbers are compared with another one.
enum class Comparison { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual };

inline const char* to_string(Comparison comparison) {
  switch (comparison) {
    case Comparison::kEqual:
      return "eq";
    case Comparison::kNotEqual:
      return "ne";
    case Comparison::kLess:
      return "lt";
    case Comparison::kLessEqual:
      return "le";
    case Comparison::kGreater:
      return "gt";
    case Comparison::kGreaterEqual:
      break;
  }
  return "ge";
}

/// Which of the tokens are the rows, where others were taken out: those at which an argument, of the tokens'
/// dimensions, compares so with a number.
struct TokenPacking {
  int64_t argument = 0;
  Comparison keeps = Comparison::kNotEqual;
  double number = 0;

  bool operator==(const TokenPacking&) const = default;
};

/// What the rows of a router are: which dimensions of which arguments of the method, in which order. Followed through
/// the graph from the arguments; says nothing of sizes.
struct TokenLayout {
  bool known = false;
  std::vector<TokenDim> dims = {};    // of the tokens, the last varies fastest; flattened or not
  std::vector<int64_t> ids = {};      // arguments that embeddings of these tokens are looked up by, in order of use
  std::vector<TokenMask> masks = {};  // arguments of two dimensions that may be masks
  std::optional<TokenPacking> packed = {};  // empty: all tokens are rows

  bool operator==(const TokenLayout&) const = default;
};

}  // namespace moetap::hooks
