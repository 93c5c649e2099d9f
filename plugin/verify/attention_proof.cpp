#include "plugin/verify/attention_proof.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

namespace moetap::plugin {
namespace {

constexpr int64_t kMostRows = 3, kMostKeys = 2;
constexpr double kLeastShare = 0.02;  // of a key, and of all others: less is not seen
constexpr double kScoreShift = 60;    // e^-60 of a share is nothing

/// A query of a head.
struct Row {
  int64_t sequence = 0, head = 0, query = 0;

  at::Tensor of(const at::Tensor& tensor) const { return tensor[sequence][head][query]; }
  std::string text() const { return fmt::format("sequence {}, head {}, query {}", sequence, head, query); }
};

class AttentionProver {
 public:
  AttentionProver(const hooks::ProbedAttention& attention, const torch::jit::Method& method,
                  const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base)
      : attention_(attention),
        method_(method),
        arguments_(arguments),
        seed_(seed),
        base_(base),
        twin_(attention, base),
        probabilities_(twin_.probabilities()) {}

  Finding rows();
  Finding share();
  Finding context() const;

 private:
  /// What the model makes of the probabilities, in one dimension; throws c10::Error where that is not known.
  at::Tensor applied_in(const TwinRun& run) const;
  at::Tensor applied_with(const Overrides& overrides) const;
  /// bool: elements that differ by more than rounding.
  at::Tensor differ(const at::Tensor& a, const at::Tensor& b) const;
  /// Of the largest number. Half precision anywhere between the probabilities and what is made of them counts: a model
  /// may take its softmax in float32 and cast what it gives.
  double tolerance() const;

  /// Rows with a key whose share is neither all nor nothing, from all over the call.
  std::vector<Row> some_rows() const;
  /// The forward with other numbers in a row.
  Overrides with_row(const Row& row, const at::Tensor& numbers) const;
  /// The elements of what is made of the probabilities that a row reaches.
  const at::Tensor& reach(const Row& row, size_t place);
  Overrides with_key_alone(const Row& row, int64_t key) const;
  Overrides without_key(const Row& row, int64_t key) const;
  Overrides with_key_moved(const Row& row, int64_t key, double shift) const;
  std::optional<Finding> share_of(const Row& row, size_t place, int64_t key);

  const hooks::ProbedAttention& attention_;
  const torch::jit::Method& method_;
  const std::vector<c10::IValue>& arguments_;
  const uint64_t seed_;
  const TwinRun& base_;
  const TwinAttention twin_;
  const at::Tensor probabilities_;  // float64 [B, H, Sq, Sk]
  std::vector<at::Tensor> reached_;
};

at::Tensor AttentionProver::applied_in(const TwinRun& run) const {
  TORCH_CHECK(run.ran(), "the model failed: ", run.error);
  const at::Tensor applied = attention_.applied ? run.first(*attention_.applied) : at::Tensor();
  TORCH_CHECK(applied.defined(), "the product of the probabilities and values is not seen in the graph");
  return applied.to(at::kDouble).flatten();
}

at::Tensor AttentionProver::applied_with(const Overrides& overrides) const {
  return applied_in(run_twin(method_, arguments_, seed_, overrides));
}

double AttentionProver::tolerance() const {
  bool is_low = twin_.is_low();
  for (const std::optional<int64_t>& probe : {attention_.applied, attention_.factor}) {
    const at::Tensor made = probe ? base_.first(*probe) : at::Tensor();
    is_low |= made.defined() && made.element_size() < 4;
  }
  return rounding_of_sums(is_low);
}

at::Tensor AttentionProver::differ(const at::Tensor& a, const at::Tensor& b) const {
  TORCH_CHECK(a.sizes() == b.sizes(), "with other numbers the model's values have other shapes");
  const double scale = at::maximum(a.abs(), b.abs()).nan_to_num(0, 0, 0).max().item<double>();
  return at::isclose(a, b, 0, tolerance() * scale, /*equal_nan=*/true).logical_not();
}

std::vector<Row> AttentionProver::some_rows() const {
  const at::Tensor& p = probabilities_;
  const at::Tensor can_be_shared = p.ge(kLeastShare).logical_and(p.le(1 - kLeastShare)).any(3);
  const at::Tensor places = can_be_shared.logical_and(at::isfinite(p.sum(3))).nonzero().to(at::kCPU);
  const int64_t count = places.size(0);
  std::vector<Row> rows;
  for (int64_t i = 0; i < std::min(count, kMostRows); ++i) {
    const at::Tensor place = places[count == 1 ? 0 : i * (count - 1) / (std::min(count, kMostRows) - 1)];
    rows.push_back({place[0].item<int64_t>(), place[1].item<int64_t>(), place[2].item<int64_t>()});
  }
  TORCH_CHECK(!rows.empty(), "no row of the input attends to more than one key");
  return rows;
}

Overrides AttentionProver::with_row(const Row& row, const at::Tensor& numbers) const {
  return twin_.is_given() ? twin_.with(attention_.probabilities, row.of(twin_.places_of_probabilities()), numbers)
                          : twin_.with(attention_.query, row.of(twin_.places_of_query()), numbers);
}

const at::Tensor& AttentionProver::reach(const Row& row, size_t place) {
  if (place < reached_.size()) return reached_[place];
  at::Tensor numbers = at::zeros_like(row.of(probabilities_));
  if (!twin_.is_given()) {
    const at::Tensor query = row.of(twin_.call().query).to(at::kDouble);
    // Another direction of the same length.
    numbers = query.flip(0).sub(query, 2);
  }
  reached_.push_back(differ(applied_in(base_), applied_with(with_row(row, numbers))));
  return reached_.back();
}

Finding AttentionProver::rows() {
  const std::vector<Row> some = some_rows();
  const at::Tensor applied = applied_in(base_);
  const int64_t num_rows = probabilities_.size(0) * probabilities_.size(1) * probabilities_.size(2);
  const int64_t of_row = applied.numel() / num_rows;
  for (size_t i = 0; i < some.size(); ++i) {
    const at::Tensor& reached = reach(some[i], i);
    const auto count = reached.sum().item<int64_t>();
    if (count == 0) {
      return twin_.is_given() ? refuted(fmt::format("what is made of {} does not depend on it", some[i].text()))
                              : not_shown(fmt::format("{} does not change with its query", some[i].text()));
    }
    if (count > of_row) {
      return refuted(fmt::format("{} reaches {} numbers of what is made of the probabilities, a row has {}",
                                 some[i].text(), count, of_row));
    }
    for (size_t other = 0; other < i; ++other) {
      if (reach(some[other], other).logical_and(reached).any().item<bool>()) {
        return refuted(fmt::format("{} and {} reach the same numbers", some[other].text(), some[i].text()));
      }
    }
  }
  return proven();
}

Overrides AttentionProver::with_key_moved(const Row& row, int64_t key, double shift) const {
  const analysis::AttentionCall& call = twin_.call();
  const int64_t head = row.head / (call.query.size(1) / call.key.size(1));
  const at::Tensor query = row.of(call.query).to(at::kDouble),
                   moved = call.key[row.sequence][head][key].to(at::kDouble);
  const double length = query.dot(query).item<double>();
  TORCH_CHECK(length > 0 && call.scale != 0, "a query is 0");
  return twin_.with(attention_.key, twin_.places_of_key()[row.sequence][head][key],
                    moved + query * (shift / (call.scale * length)));
}

Overrides AttentionProver::with_key_alone(const Row& row, int64_t key) const {
  if (!twin_.is_given()) return with_key_moved(row, key, kScoreShift);
  at::Tensor alone = at::zeros_like(row.of(probabilities_));
  alone[key] = 1;
  return with_row(row, alone);
}

Overrides AttentionProver::without_key(const Row& row, int64_t key) const {
  if (!twin_.is_given()) return with_key_moved(row, key, -kScoreShift);
  at::Tensor others = row.of(probabilities_).clone();
  const double share = others[key].item<double>();
  others[key] = 0;
  return with_row(row, others / (1 - share));
}

std::optional<Finding> AttentionProver::share_of(const Row& row, size_t place, int64_t key) {
  const double share = row.of(probabilities_)[key].item<double>();
  const at::Tensor reached = reach(row, place);
  const auto in_row = [&](const at::Tensor& applied) {
    TORCH_CHECK(applied.sizes() == reached.sizes(), "with other numbers the model's values have other shapes");
    return applied.masked_select(reached);
  };
  const at::Tensor base = in_row(applied_in(base_));
  const at::Tensor alone = in_row(applied_with(with_key_alone(row, key)));
  const at::Tensor without = in_row(applied_with(without_key(row, key)));
  if (!differ(alone, without).any().item<bool>()) {
    return twin_.is_given() ? refuted(fmt::format("masking out key {} of {} changes nothing, its share is {:.3g}", key,
                                                  row.text(), share))
                            : not_shown("the values of its keys are alike");
  }
  if (!differ(alone * share + without * (1 - share), base).any().item<bool>()) return std::nullopt;
  // The share that the model's numbers show.
  const at::Tensor span = alone - without;
  const double shown = (span.dot(base - without) / span.dot(span)).item<double>();
  return refuted(fmt::format("key {} of {} has a share of {:.4g}, what the model makes of it shows {:.4g}", key,
                             row.text(), share, shown));
}

Finding AttentionProver::share() {
  const std::vector<Row> some = some_rows();
  std::optional<Finding> open;
  bool shown = false;
  for (size_t i = 0; i < some.size(); ++i) {
    const at::Tensor row = some[i].of(probabilities_);
    const at::Tensor keys = row.ge(kLeastShare).logical_and(row.le(1 - kLeastShare)).nonzero().flatten().to(at::kCPU);
    for (int64_t k = 0; k < std::min(keys.numel(), kMostKeys); ++k) {
      // The first and the last.
      const auto key = keys[k == 0 ? 0 : keys.numel() - 1].item<int64_t>();
      if (!reach(some[i], i).any().item<bool>()) continue;
      const std::optional<Finding> finding = share_of(some[i], i, key);
      if (finding && finding->verdict == Verdict::kRefuted) return *finding;
      if (finding) open = finding;
      shown |= !finding;
    }
  }
  if (shown) return proven();
  return open ? *open : not_shown("no row reaches what is made of the probabilities");
}

Finding AttentionProver::context() const {
  const auto agree = [&](const at::Tensor& a, const at::Tensor& b) {
    return a.numel() == b.numel() && !differ(a.flatten(), b.flatten()).any().item<bool>();
  };
  const at::Tensor values = attention_.value ? base_.first(*attention_.value) : at::Tensor();
  if (!twin_.is_given() && values.defined()) {
    const at::Tensor applied = twin_.as_query(base_.first(*attention_.applied)).to(at::kDouble);
    at::Tensor value = twin_.as_key(values).to(at::kDouble);
    value = value.repeat_interleave(probabilities_.size(1) / value.size(1), 1);
    // What the operator gives a row that sees no key is its own affair.
    const at::Tensor sees = probabilities_.sum(3, true).gt(0);
    const at::Tensor expected = at::matmul(probabilities_, value).masked_fill(sees.logical_not(), 0);
    return agree(expected, applied.masked_fill(sees.logical_not(), 0))
               ? proven()
               : refuted(
                     "the operator's output is not the product of its values with the probabilities that query, "
                     "key, mask and scale give");
  }
  const at::Tensor factor = attention_.factor ? base_.first(*attention_.factor) : at::Tensor();
  if (!factor.defined()) return not_shown("the product of the probabilities and values is not seen in the graph");
  if (factor.numel() != probabilities_.numel()) return not_shown("the product gets more or fewer keys");
  // In another order, perhaps.
  const auto sorted = [](const at::Tensor& numbers) {
    return std::get<0>(numbers.to(at::kDouble).nan_to_num(0, 0, 0).flatten().sort());
  };
  return agree(sorted(factor), sorted(probabilities_))
             ? proven()
             : refuted("the product with the values gets other numbers than the probabilities that are reported");
}

}  // namespace

std::vector<Check> prove_attention(const hooks::ProbedAttention& attention, const torch::jit::Method& method,
                                   const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base) {
  std::optional<AttentionProver> prover;
  return run_checks(kAttentionChecks, [&](size_t i) {
    if (!prover) prover.emplace(attention, method, arguments, seed, base);
    return i == 0 ? prover->rows() : i == 1 ? prover->share() : prover->context();
  });
}

}  // namespace moetap::plugin
