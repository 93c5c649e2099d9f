#include "cli/studies/sample_source.h"

#include <algorithm>

namespace moetap::cli {

using studies::Order;

class SampleSource::Reader : public TokenReader {
 public:
  Reader(const SampleSource& source, uint32_t needs) : source_(source), needs_(needs), cache_(source.make_cache()) {
    buffer_.layers.resize(source.shape_.layers.size());
  }

  studies::TokenBatch& read(Order /*order*/, int64_t first, int64_t n) override {
    buffer_.resize_labels(static_cast<size_t>(n));
    std::fill(buffer_.source.begin(), buffer_.source.end(), 0);
    std::fill(buffer_.forward.begin(), buffer_.forward.end(), -1);
    std::fill(buffer_.token_id.begin(), buffer_.token_id.end(), -1);
    std::fill(buffer_.phase.begin(), buffer_.phase.end(), uint8_t{0});
    for (LayerBuffer& layer : buffer_.layers) layer.clear();
    const std::vector<int64_t>& cuts = source_.cuts_;
    auto sample = std::upper_bound(cuts.begin(), cuts.end(), first) - cuts.begin() - 1;
    for (int64_t done = 0; done < n; ++sample) {
      const auto at = static_cast<size_t>(sample);
      const int64_t place = first + done - cuts[at];
      const int64_t size = std::min(n - done, cuts[at + 1] - cuts[at] - place);
      if (size <= 0) continue;  // a sample without tokens
      for (int64_t i = 0; i < size; ++i) {
        const auto t = static_cast<size_t>(done + i);
        buffer_.sample[t] = source_.numbers_[at];
        buffer_.position[t] = buffer_.step[t] = static_cast<int32_t>(place + i);
      }
      source_.append(sample, place, size, needs_, *cache_, buffer_.layers);
      done += size;
    }
    return buffer_.view(source_.shape_, first, n);
  }

 private:
  const SampleSource& source_;
  uint32_t needs_;
  std::unique_ptr<Cache> cache_;
  BatchBuffer buffer_;
};

int64_t SampleSource::num_tokens(Order order) const {
  return order == Order::kForwards ? 0 : cuts_.back();
}

const std::vector<int64_t>& SampleSource::cuts(Order order) const {
  return order == Order::kForwards ? none_ : cuts_;
}

std::unique_ptr<TokenReader> SampleSource::open(uint32_t needs) const {
  return std::make_unique<Reader>(*this, needs & has_);
}

int64_t SampleSource::bytes_per_token(uint32_t needs) const {
  int64_t bytes = 0;
  for (const studies::LayerShape& layer : shape_.layers) {
    bytes += layer.top_k * 20;
    if ((needs & (studies::kNeedsScores | studies::kNeedsLogits)) != 0) bytes += layer.num_experts * 16;
  }
  return bytes;
}

std::vector<SourceSample> SampleSource::samples() const {
  std::vector<SourceSample> samples;
  for (const int64_t number : numbers_) samples.push_back({number, 0});
  return samples;
}

void SampleSource::add_sample(int64_t number, int64_t num_tokens) {
  numbers_.push_back(number);
  cuts_.push_back(cuts_.back() + num_tokens);
}

}  // namespace moetap::cli
