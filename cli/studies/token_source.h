#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::cli {

namespace studies = analysis::studies;

/// Tokens of a source in one order, from one thread.
class TokenReader {
 public:
  virtual ~TokenReader() = default;
  /// The tokens [first, first + n) of the order. Views; valid until the next call.
  virtual studies::TokenBatch& read(studies::Order order, int64_t first, int64_t n) = 0;
};

/// What one layer's queries of one sample attend to, somewhere in the input.
struct AttentionPiece {
  int64_t layer = 0;
  int64_t order = 0;  // by sample; pieces of a layer are read in this order
  int64_t bytes = 0;
  int64_t place = 0;  // the source's own
};

/// Gives a piece to `use`, in one or several calls.
class AttentionReader {
 public:
  virtual ~AttentionReader() = default;
  virtual void read(const AttentionPiece& piece, const std::function<void(studies::AttentionRows&)>& rows,
                    const std::function<void(studies::AttentionStats&)>& stats) = 0;
};

struct SourceSample {
  int64_t sample = 0, rank = 0;

  auto operator<=>(const SourceSample&) const = default;
};

/// One component of an input: its shape, its tokens in three orders, its attention. Const functions are thread-safe;
/// readers are for one thread each. Errors are exceptions with one line.
class TokenSource {
 public:
  virtual ~TokenSource() = default;

  virtual const studies::ComponentShape& shape() const = 0;
  /// Bits of studies::Needs that the input has.
  virtual uint32_t has() const = 0;
  /// Tokens of the order. kSamples has tokens of no known sample at the end, kForwards has none of no known forward.
  virtual int64_t num_tokens(studies::Order order) const = 0;
  /// Places in the order at which it may be cut: ascending, from 0 to num_tokens. Empty: anywhere.
  virtual const std::vector<int64_t>& cuts(studies::Order order) const = 0;
  /// True if the order has the tokens of kTokens in their order, so that one pass serves both.
  virtual bool is_token_order(studies::Order order) const = 0;
  /// `needs`: bits of studies::Needs that batches must have, if the input has them.
  virtual std::unique_ptr<TokenReader> open(uint32_t needs) const = 0;
  /// Of a batch, of one token with these needs.
  virtual int64_t bytes_per_token(uint32_t needs) const = 0;

  /// The samples that begin at the first of the cuts of kSamples, in their order. Of the sides of a pair: ascending.
  virtual std::vector<SourceSample> samples() const = 0;

  virtual std::vector<AttentionPiece> attention() const { return {}; }
  virtual std::unique_ptr<AttentionReader> open_attention(uint32_t /*needs*/) const { return nullptr; }
  /// What a summary knows of the experts' attention.
  virtual void read_totals(const std::function<void(const studies::AttentionTotals&)>& /*use*/) const {}

  /// What the user must know about this input, one line each.
  virtual std::vector<std::string> notices() const { return {}; }
};

}  // namespace moetap::cli
