#include "plugin/verify/token_proof.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

namespace moetap::plugin {
namespace {

/// What tells of a call's rows whether they changed: the first of these that there is.
at::Tensor numbers_of(const TwinRouter& router) {
  const analysis::RouterCall& call = router.call();
  if (call.logits.defined()) return call.logits.to(at::kDouble);
  return (call.weights.defined() ? call.weights : call.selected).to(at::kDouble);
}

/// bool [N]: the rows that differ by more than the rounding of sums in another order. Closed experts' very negative
/// logits say nothing of the size of the others.
at::Tensor rows_that_differ(const at::Tensor& a, const at::Tensor& b, bool is_low) {
  const at::Tensor sizes = at::maximum(a.abs(), b.abs()), counted = sizes.masked_select(sizes.isfinite() & sizes.ne(0));
  const double usual = counted.numel() == 0 ? 0 : counted.median().item<double>();
  const double tolerance = rounding_of_sums(is_low);
  return at::isclose(a, b, tolerance, tolerance * usual, /*equal_nan=*/true).all(-1).logical_not();
}

std::optional<int64_t> first_row(const at::Tensor& rows) {
  const at::Tensor places = rows.nonzero();
  return places.numel() == 0 ? std::nullopt : std::optional(places[0][0].item<int64_t>());
}

bool same_numbers(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && !first_row(rows_that_differ(a, b, /*is_low=*/false));
}

constexpr size_t kMostLabels = 6;
constexpr double kLeastShare = 1e-3;  // of attention to a key, so that another token is sure to change it

}  // namespace

/// A hook's rows in the base forward.
struct TokenProver::Rows {
  const hooks::HookPoint& hook;
  std::function<at::Tensor(const TwinRun&)> numbers_of;  // double [N, ..]; may throw
  bool is_low;                                           // they are of half precision
  std::shared_ptr<const TokenGroup> group;
  TextOfComponent text;
  at::Tensor numbers;     // of the base forward
  at::Tensor valid = {};  // bool [N]
  at::Tensor fixed = {};  // bool [N]: these rows are the same for all tokens; undefined: none is

  int64_t count() const { return group->num_tokens; }

  /// bool [N]: valid rows that differ in another forward; undefined if it did not run, or with other rows.
  at::Tensor changed_in(const TwinRun& other) const { return changed_between(numbers, other); }

  at::Tensor changed_between(const at::Tensor& from, const TwinRun& other) const {
    const at::Tensor to = numbers_in(other);
    if (!from.defined() || !to.defined() || from.sizes() != to.sizes()) return {};
    if (to.numel() == 0) return at::zeros_like(valid);
    return rows_that_differ(from, to, is_low).logical_and(valid);
  }

  at::Tensor numbers_in(const TwinRun& other) const {
    if (!other.ran() || !other.output) return {};
    try {
      return numbers_of(other);
    } catch (const std::exception&) {
      return {};  // with other arguments the model does not come here
    }
  }
};

TokenProver::TokenProver(const ModelDescription& model, const std::string& method_name,
                         const torch::jit::Method& method, const std::vector<c10::IValue>& arguments, uint64_t seed,
                         const TwinRun& base)
    : method_(method),
      seed_(seed),
      base_(base),
      arguments_(model, method_name, method.function().getSchema(), arguments) {
  c10::List<std::optional<at::Tensor>> tensors;
  for (const at::Tensor& tensor : arguments_.tensors()) {
    tensors.push_back(tensor.defined() ? std::optional(tensor) : std::nullopt);
  }
  tokens_.read(arguments_.text(), tensors, /*keep_ids=*/true, copies_, [](const auto&, const auto&) {});
}

TokenProver::Rows TokenProver::rows_of(const hooks::ProbedRouter& router) {
  const TwinRouter twin(router, base_);
  const TextOfComponent text = tokens_.text_of_hook(router.hook.id, router.hook.component);
  const c10::Device device = twin.call().selected.device();
  auto group = tokens_.group_of({text, twin.canonical().token_sizes, device, nullptr, &router.hook.tokens}, &copies_);
  const auto numbers = [&router](const TwinRun& run) { return numbers_of(TwinRouter(router, run)); };
  const bool is_low = twin.call().logits.defined() && twin.call().logits.element_size() < 4;
  Rows rows{router.hook, numbers, is_low, std::move(group), text, numbers_of(twin)};
  const at::Tensor& valid = rows.group->valid;
  rows.valid = valid.defined() ? valid : at::ones({rows.count()}, at::TensorOptions().dtype(at::kBool).device(device));
  return rows;
}

TokenProver::Rows TokenProver::rows_of(const hooks::ProbedAttention& attention) {
  const TwinAttention twin(attention, base_);
  const at::Tensor probabilities = twin.probabilities();
  const AttentionSizes sizes{probabilities.size(0), probabilities.size(2), probabilities.size(3),
                             probabilities.device()};
  static const AttentionRegions regions;
  const std::vector<int64_t> samples(static_cast<size_t>(sizes.batch), 0);
  CachedRegions cached;
  AttentionPlaces places = place_attention(tokens_, AttentionHook(attention.hook), sizes,
                                           {regions, at::Tensor(), cached, samples}, &copies_);
  // Padding as a key is no number of a row.
  const auto numbers = [&attention, is_key = places.tokens.key_position.ge(0)](const TwinRun& run) {
    const at::Tensor of_run = TwinAttention(attention, run).probabilities();
    if (of_run.size(3) != is_key.size(1) || of_run.size(0) != is_key.size(0)) return at::Tensor();
    return of_run.masked_fill(is_key.logical_not().unsqueeze(1).unsqueeze(1), 0)
        .transpose(1, 2)
        .flatten(2)
        .flatten(0, 1);
  };
  const TextOfComponent text = tokens_.text_of_hook(attention.hook.id, attention.hook.component);
  Rows rows{attention.hook, numbers, twin.is_low(), std::move(places.queries), text, numbers(base_)};
  rows.valid = places.tokens.query_position.ge(0).flatten();
  // A query that sees one key gives it everything, whatever it is.
  if (rows.numbers.defined()) {
    rows.fixed = rows.numbers.gt(kLeastShare).logical_and(rows.numbers.lt(1 - kLeastShare)).any(-1).logical_not();
  }
  return rows;
}

std::vector<Check> TokenProver::prove(const hooks::ProbedAttention& attention) {
  std::optional<Rows> rows;
  return run_checks(kAttentionTokenChecks, [&](size_t i) {
    if (!rows) rows.emplace(rows_of(attention));
    return i == 0 ? samples(*rows) : padding(*rows);
  });
}

std::vector<Check> TokenProver::prove(const hooks::ProbedRouter& router) {
  static constexpr std::array<Finding (TokenProver::*)(const Rows&), kTokenChecks.size()> kMembers = {
      &TokenProver::samples, &TokenProver::positions, &TokenProver::padding};
  std::optional<Rows> rows;
  return run_checks(kTokenChecks, [&](size_t i) {
    if (!rows) rows.emplace(rows_of(router));
    return (this->*kMembers[i])(*rows);
  });
}

Finding TokenProver::samples(const Rows& rows) {
  const Attribution& attribution = rows.group->attribution;
  if (!attribution.attributed) return not_shown("samples of its rows are not known");
  const at::Tensor labels = row_column(attribution, rows.count(), rows.group->places);
  const Finding finding = labelled(rows, labels, attribution.num_rows, Change::kSample);
  if (finding.verdict != Verdict::kNotShown || attribution.num_rows < 2) return finding;
  // Ids that mark places, for an image say, stay where they are in the ids of another sample.
  const Finding other = labelled(rows, labels, attribution.num_rows, Change::kSampleAsNeighbour);
  return other.verdict == Verdict::kNotShown ? finding : other;
}

Finding TokenProver::positions(const Rows& rows) {
  const Attribution& attribution = rows.group->attribution;
  if (!attribution.attributed || attribution.position != PositionOf::kSequence) {
    return not_shown("positions of its rows are not known");
  }
  // There a position is the column in all parts together, which is no argument's.
  const auto& dims = rows.hook.tokens.dims;
  if (std::any_of(dims.begin(), dims.end(), [](const hooks::TokenDim& dim) { return !dim.parts.empty(); })) {
    return not_shown("its rows are parts that stand behind each other");
  }
  return labelled(rows, position_column(attribution, rows.count(), rows.group->places).to(at::kLong),
                  attribution.num_positions, Change::kPosition);
}

Finding TokenProver::labelled(const Rows& rows, const at::Tensor& labels_on_cpu, int64_t count, Change change) {
  const char* one = change == Change::kPosition ? "position" : "sample";
  if (count < 2) return not_shown(fmt::format("the input has one {}", one));
  const at::Tensor labels = labels_on_cpu.to(rows.valid.device());
  std::map<int64_t, at::Tensor> changed;  // by label: bool [N]
  std::set<int64_t> next = {0, 1, count - 1};
  std::optional<Finding> open;
  while (!next.empty()) {
    const int64_t label = *next.begin();
    next.erase(next.begin());
    const TwinRun& other = run({change, label, count, rows.text});
    if (!other.ran()) return not_shown(other.error);
    changed[label] = rows.changed_in(other);
    if (!changed[label].defined()) return not_shown(fmt::format("another {} gives other rows", one));
    const at::Tensor elsewhere = changed[label].logical_and(labels.ne(label));
    // What these rows do when their own arguments change tells whose they are.
    if (const auto row = first_row(elsewhere)) {
      const int64_t own = labels[*row].item<int64_t>();
      if (!changed.contains(own) && changed.size() + next.size() < kMostLabels) next.insert(own);
    }
  }
  for (const auto& [label, rows_of_label] : changed) {
    const at::Tensor is_own = labels.eq(label);
    for (const auto& [own, rows_of_own] : changed) {
      const at::Tensor others = rows_of_label.logical_and(labels.eq(own)).logical_and(rows_of_own.logical_not());
      if (const auto row = first_row(others)) {
        return refuted(fmt::format("row {} is given to {} {}, but changes with {} {} and not with its own", *row, one,
                                   own, one, label));
      }
    }
    at::Tensor unchanged = is_own.logical_and(rows.valid).logical_and(rows_of_label.logical_not());
    if (rows.fixed.defined()) unchanged = unchanged.logical_and(rows.fixed.logical_not());
    if (const auto row = first_row(unchanged)) {
      open = not_shown(fmt::format("row {} of {} {} does not change with it", *row, one, label));
    }
    // Attention that looks back only is no reason against the order of positions.
    const at::Tensor mixed = change == Change::kPosition ? labels.lt(label) : is_own.logical_not();
    if (first_row(rows_of_label.logical_and(mixed))) {
      open = not_shown(fmt::format("rows of other {}s change with {} {}, too: the model mixes them", one, one, label));
    }
  }
  return open ? *open : proven();
}

std::optional<TextTokens> TokenProver::text_of(TextOfComponent text) const {
  if (text == TextOfComponent::kNone) return std::nullopt;
  const bool of_decoder = text == TextOfComponent::kDecoder;
  const bool has_decoder = arguments_.text().decoder_ids || arguments_.text().decoder_mask;
  if (of_decoder && !has_decoder) return std::nullopt;
  return of_decoder ? tokens_.query_text() : tokens_.text();
}

Finding TokenProver::padding(const Rows& rows) {
  const auto text = text_of(rows.text);
  if (!text || !rows.group->attribution.text) return not_shown("no mask is known for its rows");
  if (!text->valid.defined()) return not_shown("the input has no mask");
  if (text->valid.all().item<bool>()) return not_shown("the input has no padding");
  const TwinRun& other = run({Change::kPadding, 0, 0, rows.text});
  if (!other.ran()) return not_shown(other.error);
  const at::Tensor reached = rows.changed_in(other);
  if (!reached.defined()) return not_shown("other padding gives other rows");
  const auto row = first_row(reached);
  if (!row && !same_numbers(rows.numbers_in(other), rows.numbers)) return proven();
  // What the same change does where the mask calls these places tokens.
  const TwinRun& as_tokens = run({Change::kNoPadding, 0, 0, rows.text});
  const TwinRun& other_tokens = run({Change::kPaddingAsTokens, 0, 0, rows.text});
  const at::Tensor from = rows.numbers_in(as_tokens), to = rows.numbers_in(other_tokens);
  if (!from.defined() || !to.defined()) return not_shown("the mask cannot be changed to tell what it does");
  if (!row) {
    return same_numbers(from, to) ? not_shown("nothing changes with the arguments at the places of padding") : proven();
  }
  const at::Tensor reached_as_tokens = rows.changed_between(from, other_tokens);
  const bool heeds_it = reached_as_tokens.defined() && !first_row(reached_as_tokens);
  return heeds_it ? refuted(fmt::format("row {} changes with what the mask is said to mark as padding, and would "
                                        "not if it was marked as tokens",
                                        *row))
                  : not_shown("the model lets padding change other rows");
}

std::optional<ChangedArguments::Values> TokenProver::changed(const ChangeKey& key,
                                                             ChangedArguments::Exchange exchange) const {
  if (key.change == Change::kSample || key.change == Change::kSampleAsNeighbour) {
    return arguments_.of_sample(key.label, key.count, exchange);
  }
  if (key.change == Change::kPosition) return arguments_.of_position(key.label, key.count, exchange);
  const auto text = text_of(key.text);
  if (!text || !text->valid.defined()) return std::nullopt;
  const bool of_decoder = key.text == TextOfComponent::kDecoder;
  const auto mask = of_decoder ? arguments_.text().decoder_mask : arguments_.text().mask;
  const TextReading& reading = of_decoder ? arguments_.text().decoder_reading : arguments_.text().reading;
  auto values = key.change == Change::kNoPadding ? std::optional(arguments_.unchanged())
                                                 : arguments_.of_tokens(text->valid.logical_not(), exchange);
  if (!values || key.change == Change::kPadding) return values;
  const auto all_tokens = mask ? arguments_.mask_without_padding(*mask, reading.mask_means) : std::nullopt;
  if (!all_tokens) return std::nullopt;
  return arguments_.with(std::move(*values), *mask, *all_tokens);
}

const TwinRun& TokenProver::run(const ChangeKey& key) {
  const auto [known, is_new] = runs_.try_emplace(key);
  if (!is_new) return known->second;
  TwinRun& run = known->second;
  run.error = "no argument is known that holds these tokens";
  for (const auto exchange : {ChangedArguments::Exchange::kAmongAll, ChangedArguments::Exchange::kWithNeighbour}) {
    if (key.change == Change::kSampleAsNeighbour && exchange == ChangedArguments::Exchange::kAmongAll) continue;
    const auto values = changed(key, exchange);
    if (!values) continue;
    run = run_twin(method_, *values, seed_);
    if (run.ran()) break;
    run.error = "the model failed with other arguments: " + run.error;
  }
  return run;
}

}  // namespace moetap::plugin
