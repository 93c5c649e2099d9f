#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/studies/batch_buffer.h"
#include "cli/studies/token_source.h"

namespace moetap::cli {

/// An input whose tokens stand sample by sample and say nothing but what each layer did with them. A kind of file says
/// how a sample's tokens are read.
class SampleSource : public TokenSource {
 public:
  const studies::ComponentShape& shape() const override { return shape_; }
  uint32_t has() const override { return has_; }
  int64_t num_tokens(studies::Order order) const override;
  const std::vector<int64_t>& cuts(studies::Order order) const override;
  bool is_token_order(studies::Order order) const override { return order != studies::Order::kForwards; }
  std::unique_ptr<TokenReader> open(uint32_t needs) const override;
  int64_t bytes_per_token(uint32_t needs) const override;
  std::vector<SourceSample> samples() const override;
  std::vector<std::string> notices() const override { return notices_; }

 protected:
  /// What a reader keeps between two calls of `append`.
  struct Cache {
    virtual ~Cache() = default;
  };
  virtual std::unique_ptr<Cache> make_cache() const = 0;
  /// Appends the tokens [first, first + n) of a sample to every layer's buffer.
  virtual void append(int64_t sample, int64_t first, int64_t n, uint32_t needs, Cache& cache,
                      std::vector<LayerBuffer>& layers) const = 0;

  void add_sample(int64_t number, int64_t num_tokens);

  studies::ComponentShape shape_;
  uint32_t has_ = studies::kNeedsTokens | studies::kNeedsSamples;
  std::vector<std::string> notices_;

 private:
  class Reader;

  std::vector<int64_t> numbers_;  // of the samples
  std::vector<int64_t> cuts_{0};
  std::vector<int64_t> none_{0};
};

}  // namespace moetap::cli
