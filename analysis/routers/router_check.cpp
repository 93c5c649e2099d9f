#include "analysis/routers/router_check.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <limits>
#include <optional>
#include <vector>

#include "analysis/routers/router_scale.h"

namespace moetap::analysis {
namespace {

constexpr int64_t kNotExamined = -1;
constexpr int64_t kMinTokensOfPattern = 64;  // fewer may look like that by chance

/// The name of the scoring function, without what follows it.
std::string_view function_of(std::string_view scoring) {
  for (const std::string_view ending : {"_bias", "_topk"}) {
    if (scoring.ends_with(ending)) return scoring.substr(0, scoring.size() - ending.size());
  }
  return scoring;
}

bool is_scored_later(std::string_view scoring) {
  return scoring == "none" || scoring == "other" || scoring.ends_with("_topk");
}

/// The scores of logits [T, E]; undefined for a function that is not known by name.
at::Tensor scores_of(const at::Tensor& logits, std::string_view function) {
  // at::softmax starts threads of OpenMP for any size, and these hang in a forked child of a process that had them.
  if (function == "softmax") return (logits - at::logsumexp(logits, 1, true)).exp();
  if (function == "sigmoid") return at::sigmoid(logits);
  if (function == "softplus") return at::softplus(logits);
  if (function == "sqrtsoftplus") return at::softplus(logits).sqrt();
  if (function == "relu") return at::relu(logits);
  if (function == "tanh") return at::tanh(logits);
  if (function == "none") return logits;
  return {};
}

/// Values with what is known of their rounding.
struct Rounded {
  at::Tensor values;     // float64
  at::Tensor tolerance;  // float64 []: relative
  at::Tensor least;      // float64 []: below it, a value may have lost its digits

  bool defined() const { return values.defined(); }
};

struct Precision {
  double tolerance, least;
};

/// Several operations may have rounded a value: some units in the last place, and room for a device's fast functions.
Precision precision_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return {1e-2, 1e-5};
    case at::kBFloat16:
      return {4e-2, 1e-36};
    case at::kDouble:
      return {1e-6, 1e-36};  // what it was computed from may be float32
    default:
      return {5e-4, 1e-36};
  }
}

Rounded rounded(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  const at::ScalarType dtype = tensor.scalar_type();
  const Precision precision = precision_of(dtype);
  Rounded result{tensor.to(at::kDouble), {}, {}};
  result.tolerance = at::full({}, precision.tolerance, result.values.options());
  result.least = at::full({}, precision.least, result.values.options());
  if (dtype != at::kFloat && dtype != at::kDouble) return result;
  // A model may have computed in half precision and cast back.
  for (const at::ScalarType shorter : {at::kHalf, at::kBFloat16}) {
    const at::Tensor fits = (tensor.to(shorter).to(dtype) == tensor).logical_or(at::isnan(tensor)).all();
    result.tolerance = at::where(fits, precision_of(shorter).tolerance, result.tolerance);
    if (shorter == at::kHalf) result.least = at::where(fits, precision_of(shorter).least, result.least);
  }
  return result;
}

at::Tensor wider(const Rounded& a, const Rounded& b) {
  return at::maximum(a.tolerance, b.tolerance);
}

/// bool [T]: tokens whose values [T, n] are not `source` times one factor for the token. NaN fits everything.
at::Tensor off_by_more_than_a_factor(const Rounded& values, const Rounded& source, const at::Tensor& valid) {
  const at::Tensor lost = source.values.ne(0).logical_and(source.values.abs() < source.least);
  const at::Tensor seen = valid.logical_and(lost.logical_not());
  const at::Tensor reference = at::where(seen, source.values.abs(), -1.0).argmax(1, true);
  const at::Tensor factor = values.values.gather(1, reference) / source.values.gather(1, reference);
  const at::Tensor expected = factor * source.values;
  const at::Tensor off = (values.values - expected).abs() > wider(values, source) * expected.abs() + values.least;
  const at::Tensor from_nothing = source.values.eq(0).logical_and(values.values.abs() > values.least);
  return off.logical_or(from_nothing).logical_and(seen).any(1);
}

/// bool [T]: tokens in which a value differs. Infinities of one sign are equal.
at::Tensor differ(const Rounded& a, const Rounded& b, const at::Tensor& valid) {
  const at::Tensor apart = (a.values - b.values).abs();  // NaN for infinities of one sign
  const at::Tensor off = apart > wider(a, b) * b.values.abs() + 1e-6;
  return off.logical_or(at::isinf(apart)).logical_and(valid).any(1);
}

/// bool [T]: tokens whose values have another order than `source`.
at::Tensor not_rising(const Rounded& values, const Rounded& source) {
  const at::Tensor in_order = values.values.gather(1, source.values.argsort(int64_t{1}));
  const at::Tensor falls = in_order.slice(1, 0, -1) - in_order.slice(1, 1);
  return (falls > values.tolerance * in_order.slice(1, 1).abs() + 1e-6).any(1);
}

/// bool [T]: tokens whose values are not exp(source) times a factor for the token and one for the expert: Sinkhorn's.
at::Tensor not_scaled_exponentials(const Rounded& values, const Rounded& source) {
  const at::Tensor apart = values.values.log() - source.values;
  const at::Tensor left = apart - apart.mean(1, true) - apart.mean(0, true) + apart.mean();
  const at::Tensor fits = left.abs() <= wider(values, source) * (1 + source.values.abs());  // false for NaN
  return fits.logical_not().any(1);
}

/// The fewest misfits of several explanations, each of which would have to hold for all tokens.
class Explanations {
 public:
  void add(const at::Tensor& misfits) {
    const at::Tensor count = misfits.dim() == 0 ? misfits : misfits.sum();
    fewest_ = fewest_.defined() ? at::minimum(fewest_, count) : count;
  }
  /// True if an explanation holds: on the CPU, where asking costs nothing.
  bool holds() const { return fewest_.defined() && fewest_.is_cpu() && fewest_.item<int64_t>() == 0; }
  const at::Tensor& fewest() const { return fewest_; }

 private:
  at::Tensor fewest_;  // int64 []; undefined: there is none
};

class RouterCheck {
 public:
  explicit RouterCheck(const CheckedRouter& router)
      : scoring_(router.scoring),
        scores_are_plain_(router.scores_are_plain),
        weights_are_scaled_scores_(router.weights_are_scaled_scores),
        weights_have_factors_of_experts_(router.weights_have_factors_of_experts),
        num_experts_(router.call.num_experts),
        top_k_(router.top_k),
        has_slots_(router.has_slots),
        relations_(kNumRouterRelations) {
    const RouterCall& call = router.call;
    const int64_t num_tokens = call.selected.size(0);
    // Odd, so that it does not find the same position of each sample.
    step_ = (num_tokens + kMaxCheckedTokens - 1) / kMaxCheckedTokens | 1;
    logits_ = rounded(some(call.logits));
    scores_ = rounded(some(call.scores));
    weights_ = rounded(some(call.weights));
    raw_choice_ = some(router.choice);
    choice_ = rounded(raw_choice_);
    dense_weights_ = some(router.dense_weights);
    ids_ = some(call.selected);
    holds_ = ids_.ge(0).logical_and_(ids_.lt(num_experts_));
    experts_ = at::where(holds_, ids_, 0);
    if (logits_.defined()) {
      computed_ = {scores_of(logits_.values, function_of(scoring_)), logits_.tolerance, logits_.least};
    }
  }

  at::Tensor run() {
    if (ids_.numel() > 0) {
      check_scores();
      check_choice();
      check_ids();
      check_weights();
      check_dense_weights();
    }
    for (at::Tensor& count : relations_) {
      if (!count.defined()) count = at::full({}, kNotExamined, ids_.options());
    }
    return at::stack(relations_);
  }

 private:
  at::Tensor some(const at::Tensor& rows) const { return rows.defined() ? rows.slice(0, 0, {}, step_) : rows; }

  void set(RouterRelation relation, const at::Tensor& misfits) {
    relations_[static_cast<size_t>(relation)] = misfits.dim() == 0 ? misfits : misfits.sum();
  }

  static at::Tensor everywhere(const at::Tensor& values) { return at::ones_like(values, at::kBool); }
  Rounded logarithm(const Rounded& of) const { return {of.values.log(), of.tolerance, of.least}; }
  Rounded exponential(const Rounded& of) const { return {of.values.exp(), of.tolerance, of.least}; }
  Rounded at_ids(const Rounded& of) const { return {of.values.gather(1, experts_), of.tolerance, of.least}; }

  void check_scores();
  void check_choice();
  void check_ids();
  at::Tensor not_best_of(const at::Tensor& values) const;
  void check_weights();
  void check_dense_weights();
  void be_witness_of(RouterRelation relation, const Rounded& source, const at::Tensor& used);
  at::Tensor beyond_scale(const Rounded& source, const at::Tensor& used, const at::Tensor& of, int64_t num) const;

  const std::string_view scoring_;
  const bool scores_are_plain_, weights_are_scaled_scores_, weights_have_factors_of_experts_;
  const int64_t num_experts_;
  const std::optional<int64_t> top_k_;
  const bool has_slots_;
  int64_t step_ = 1;
  Rounded logits_, scores_, weights_, choice_;
  Rounded computed_;  // scoring(logits)
  at::Tensor raw_choice_, dense_weights_;
  at::Tensor ids_, holds_, experts_;  // [T, K]: ids; whether the slot holds an expert; the ids where it does
  std::vector<at::Tensor> relations_;
};

void RouterCheck::check_scores() {
  if (!scores_are_plain_ || !scores_.defined() || !computed_.defined() || is_scored_later(scoring_)) return;
  Explanations scores;
  scores.add(off_by_more_than_a_factor(scores_, computed_, everywhere(scores_.values)));
  // log_softmax and log_sigmoid go by the names of the functions.
  if (!scores.holds()) scores.add(differ(scores_, logarithm(computed_), everywhere(scores_.values)));
  set(kScoresAreOfLogits, scores.fewest());
}

void RouterCheck::check_choice() {
  if (!choice_.defined()) return;
  const at::Tensor all = everywhere(choice_.values);
  if (logits_.defined()) set(kWitnessChoiceIsLogits, differ(choice_, logits_, all));
  if (scores_.defined()) set(kWitnessChoiceIsScores, differ(choice_, scores_, all));
  if (!logits_.defined() || scoring_.ends_with("_bias")) return;
  // What is done to scores before the selection (noise, a bias, groups) is no matter of the logits.
  if (!is_scored_later(scoring_) && scores_.defined()) return;
  const at::Tensor open = choice_.values.ne(0).logical_and(choice_.values > -1e4);
  if (is_scored_later(scoring_)) {
    set(kChoiceIsOfLogits, differ(choice_, logits_, all));
    set(kWitnessChoiceIsOpenLogits, differ(choice_, logits_, open));
    const at::Tensor apart = choice_.values - logits_.values;  // NaN where both are closed
    const at::Tensor bias =
        at::where(apart.isnan(), 0.0, apart).sum(0, true) / apart.isnan().logical_not().sum(0, true);
    set(kWitnessChoiceIsBiasedLogits, differ(choice_, {logits_.values + bias, logits_.tolerance, logits_.least}, all));
    Explanations rising;
    rising.add(not_rising(choice_, logits_));
    if (!rising.holds()) rising.add(not_scaled_exponentials(choice_, logits_));
    set(kWitnessChoiceRisesWithLogits, rising.fewest());
    return;
  }
  // Masks behind the scoring belong to the selection: experts outside the best groups.
  Explanations choice;
  choice.add(differ(choice_, logits_, open));
  if (computed_.defined()) choice.add(off_by_more_than_a_factor(choice_, computed_, open));
  set(kChoiceIsOfLogits, choice.fewest());
}

void RouterCheck::check_ids() {
  const int64_t top_k = ids_.size(1);
  // Where the graph tells no number, an order of all experts is no selection, unless weights may close some.
  const bool selects = top_k < num_experts_ || num_experts_ == 1 || !has_slots_ || weights_.defined();
  set(kIdsAreAll, at::full({}, (top_k_ ? top_k == *top_k_ : selects) ? 0 : ids_.size(0), ids_.options()));
  if (top_k > num_experts_) return;
  if (choice_.defined()) {
    set(kIdsAreBest, not_best_of(raw_choice_));
  } else if (scores_.defined() || logits_.defined()) {
    set(kWitnessIdsAreBestOfScores, not_best_of(scores_.defined() ? scores_.values : logits_.values));
  }
}

/// bool [T]: tokens with an id that is not among the K best, or there twice.
at::Tensor RouterCheck::not_best_of(const at::Tensor& values) const {
  const int64_t top_k = ids_.size(1);
  const at::Tensor least = std::get<0>(values.topk(top_k, 1)).select(1, top_k - 1).unsqueeze(1);
  const at::Tensor worse = (values.gather(1, experts_) < least).logical_and_(holds_).any(1);
  const at::Tensor times = at::zeros_like(values, ids_.options()).scatter_add_(1, experts_, holds_.to(at::kLong));
  return worse.logical_or(times.gt(1).any(1));
}

/// Like `count_beyond_expert_scale`, for the `num` experts or slots `of` [T, K].
at::Tensor RouterCheck::beyond_scale(const Rounded& source, const at::Tensor& used, const at::Tensor& of,
                                     int64_t num) const {
  const at::Tensor ratio = weights_.values / source.values;
  const at::Tensor has_logarithm = ratio.gt(0).logical_and(at::isfinite(ratio));
  const at::Tensor refused = used.logical_and(has_logarithm.logical_not()).any();
  const at::Tensor beyond = count_beyond_expert_scale(
      {at::where(has_logarithm, ratio, 1.0).log(), used.logical_and(has_logarithm), of, num}, wider(weights_, source));
  return at::where(refused, ids_.size(0), beyond);
}

/// Proportional in each token; where no token has two slots, in the whole call.
void RouterCheck::be_witness_of(RouterRelation relation, const Rounded& source, const at::Tensor& used) {
  if (!source.defined()) return;
  const Rounded selected = at_ids(source);
  const at::Tensor pairs = used.logical_and(used.sum(1, true) > 1);
  const at::Tensor in_proportion = off_by_more_than_a_factor(weights_, selected, used).sum();
  const auto in_a_row = [](const Rounded& of) { return Rounded{of.values.reshape({1, -1}), of.tolerance, of.least}; };
  const at::Tensor by_one_factor =
      off_by_more_than_a_factor(in_a_row(weights_), in_a_row(selected), used.reshape({1, -1})).sum();
  set(relation, at::where(pairs.any(), in_proportion, at::where(used.any(), by_one_factor, kNotExamined)));
}

void RouterCheck::check_weights() {
  if (!weights_.defined()) return;
  const at::Tensor used = holds_.logical_and(weights_.values.abs() > weights_.least);
  be_witness_of(kWitnessWeightsOfScores, scores_, used);
  be_witness_of(kWitnessWeightsOfLogits, computed_, used);
  if (!weights_are_scaled_scores_) return;
  std::vector<Rounded> sources;
  if (scores_.defined() && scoring_ != "sparsemixer" && !is_scored_later(scoring_)) sources.push_back(at_ids(scores_));
  if (computed_.defined()) sources.push_back(at_ids(computed_));
  if (sources.empty()) return;
  const Rounded first = sources.front();
  if (!is_scored_later(scoring_)) {
    sources.push_back(exponential(first));                             // a softmax over the selected scores
    sources.push_back(at_ids(logits_.defined() ? logits_ : scores_));  // or over the selected logits
    sources.push_back(exponential(sources.back()));
    if (scoring_.ends_with("_bias") && choice_.defined()) {
      sources.push_back(at_ids(choice_));
      sources.push_back(exponential(sources.back()));
    }
  }
  Explanations weights;
  for (const Rounded& source : sources) {
    if (!weights.holds()) weights.add(off_by_more_than_a_factor(weights_, source, used));
  }
  const int64_t num_slots = ids_.size(1);
  if (weights_have_factors_of_experts_ && num_slots > 1 && !weights.holds()) {
    weights.add(beyond_scale(first, used, experts_, num_experts_));
    weights.add(beyond_scale(first, used, at::arange(num_slots, ids_.options()).expand_as(ids_), num_slots));
  }
  // A capacity drops some best slots, not all.
  const at::Tensor best = at::where(holds_, first.values, -std::numeric_limits<double>::infinity()).argmax(1, true);
  const at::Tensor weighs = used.any(1);
  const at::Tensor only_others = weighs.logical_and(used.gather(1, best).squeeze(1).logical_not()).sum();
  const at::Tensor never_best = only_others.eq(weighs.sum()).logical_and(only_others >= kMinTokensOfPattern);
  set(kWeightsAreOfScores, at::where(never_best, only_others, weights.fewest()));
}

void RouterCheck::check_dense_weights() {
  if (!dense_weights_.defined()) return;
  const at::Tensor selected =
      at::zeros_like(dense_weights_, ids_.options()).scatter_add_(1, experts_, holds_.to(at::kLong));
  set(kWeightsAreAtIds, dense_weights_.ne(0).logical_and(selected.eq(0)).any(1));
}

}  // namespace

at::Tensor count_misfits(const CheckedRouter& router) {
  return RouterCheck(router).run();
}

RouterVerdict judge(const at::Tensor& misfits) {
  const at::Tensor counts = misfits.contiguous();
  const auto* count = counts.const_data_ptr<int64_t>();
  const auto fails = [&](RouterRelation relation) { return count[relation] > 0; };
  const auto holds = [&](RouterRelation relation) { return count[relation] == 0; };
  RouterVerdict verdict;
  const auto blame = [&](RouterColumn column, RouterRelation relation, const char* what) {
    verdict.try_emplace(column, fmt::format("{} ({} tokens)", what, count[relation]));
  };
  const bool scores_are_used = holds(kWitnessWeightsOfScores) || holds(kWitnessChoiceIsScores);
  if (fails(kScoresAreOfLogits)) {
    const char* what = "the scores are not the scoring function of the logits";
    if (!holds(kWitnessChoiceIsLogits)) blame(kLogitsColumn, kScoresAreOfLogits, what);
    if (!scores_are_used) blame(kScoresColumn, kScoresAreOfLogits, what);
  }
  const bool is_bias = holds(kWitnessChoiceIsBiasedLogits) && !fails(kWeightsAreOfScores);
  if (fails(kChoiceIsOfLogits) && !is_bias) {
    const char* what = "the selection reads other values";
    const bool selects_otherwise = holds(kWitnessWeightsOfLogits) && !holds(kWitnessChoiceIsOpenLogits);
    if (!selects_otherwise || fails(kWitnessChoiceRisesWithLogits)) blame(kLogitsColumn, kChoiceIsOfLogits, what);
  }
  if (fails(kWeightsAreOfScores)) {
    const char* what = "the weights are not of the selected scores";
    blame(kWeightsColumn, kWeightsAreOfScores, what);
    if (!holds(kIdsAreBest) && !holds(kWitnessIdsAreBestOfScores)) blame(kIdsColumn, kWeightsAreOfScores, what);
  }
  if (fails(kIdsAreBest)) blame(kIdsColumn, kIdsAreBest, "the ids are not the best of what the selection reads");
  if (fails(kIdsAreAll)) blame(kIdsColumn, kIdsAreAll, "the ids are not as many as the model selects");
  if (fails(kWeightsAreAtIds)) blame(kIdsColumn, kWeightsAreAtIds, "experts that are not selected have weights");
  return verdict;
}

at::Tensor weights_fit(const at::Tensor& misfits) {
  return misfits.select(0, kWeightsAreOfScores).le(0);
}

}  // namespace moetap::analysis
