#include "analysis/studies/input_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace moetap::analysis::studies {
namespace {

constexpr int64_t kRowsPerPaddedRow = 8;  // looking at all keys of all rows would read more than the studies do
constexpr double kSumTolerance = 2e-3;    // of half precision over some hundred terms
constexpr double kPaddedTolerance = 1e-3;

/// The sum of a row, in a fixed order whatever the compiler does; NaN or infinite if a term is.
template <typename Value>
double sum_of(const Value* values, int64_t n) {
  constexpr int64_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[static_cast<size_t>(lane)] += static_cast<double>(values[i + lane]);
  }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(values[i]);
  for (const double lane : lanes) sum += lane;
  return sum;
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? kUndefined : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

InputCheck::InputCheck(const ComponentShape& shape, bool is_arrays)
    : component_(shape.name), is_arrays_(is_arrays), layers_(shape.layers.size()) {
  for (const LayerShape& layer : shape.layers) ids_.push_back(layer.id);
}

void InputCheck::observe(const TokenBatch& batch) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerTokens& tokens = batch.layers[l];
    Layer& layer = layers_[l];
    layer.foreign += tokens.foreign_ids;
    const std::span<const double> gates = tokens.gates.empty() ? tokens.weights : tokens.gates;
    const bool all_assigned =
        batch.valid.empty() && tokens.seen.empty() && loops_.are_below(tokens.ids.data(), tokens.ids.size(), INT32_MAX);
    if (all_assigned && loops_.are_finite_from_zero(gates.data(), gates.size())) {
      layer.tokens += batch.num_tokens;
      layer.slots += static_cast<int64_t>(tokens.ids.size());
      layer.gates += static_cast<int64_t>(gates.size());
      for (int64_t t = 0; t < batch.num_tokens && !tokens.scores.empty(); ++t) check_scores(tokens, t, layer);
      continue;
    }
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      if (!batch.is_valid(t) || !tokens.has_seen(t)) continue;
      ++layer.tokens;
      for (int64_t slot = t * tokens.top_k; slot < (t + 1) * tokens.top_k; ++slot) {
        ++layer.slots;
        if (tokens.ids[static_cast<size_t>(slot)] < 0) {
          ++layer.unassigned;
          continue;
        }
        if (gates.empty()) continue;
        const double gate = gates[static_cast<size_t>(slot)];
        ++layer.gates;
        layer.not_finite_gates += std::isfinite(gate) ? 0 : 1;
        layer.negative_gates += gate < 0 ? 1 : 0;
      }
      if (!tokens.scores.empty()) check_scores(tokens, t, layer);
    }
  }
}

void InputCheck::check_scores(const LayerTokens& tokens, int64_t t, Layer& layer) {
  const std::span<const double> scores = tokens.scores_of(t);
  ++layer.scored_tokens;
  const double sum = sum_of(scores.data(), static_cast<int64_t>(scores.size()));
  if (!std::isfinite(sum)) {
    layer.not_finite_gates += std::count_if(scores.begin(), scores.end(), [](double s) { return !std::isfinite(s); });
    return;
  }
  layer.gate_sum_error = std::max(layer.gate_sum_error, std::abs(sum - 1));
  double smallest = HUGE_VAL;
  int64_t chosen = 0;
  for (const int32_t id : tokens.ids_of(t)) {
    if (id < 0) continue;
    ++chosen;
    smallest = std::min(smallest, scores[static_cast<size_t>(id)]);
  }
  if (chosen == 0) return;
  int64_t larger = 0;
  for (const double score : scores) larger += score > smallest ? 1 : 0;
  int64_t larger_chosen = 0;
  for (const int32_t id : tokens.ids_of(t))
    larger_chosen += id >= 0 && scores[static_cast<size_t>(id)] > smallest ? 1 : 0;
  layer.largest += larger == larger_chosen ? 1 : 0;
}

void InputCheck::observe(const AttentionRows& rows) {
  Layer& layer = layers_[static_cast<size_t>(rows.layer)];
  for (int64_t i = 0; i < rows.num_queries; ++i) {
    const auto sum = [&](int64_t first, int64_t n) {
      const int64_t begin = i * rows.row_stride + first;
      return rows.f32 != nullptr ? sum_of(rows.f32 + begin, n) : sum_of(rows.f64 + begin, n);
    };
    const double mass = sum(0, rows.num_keys);
    ++layer.rows;
    if (!std::isfinite(mass)) {
      ++layer.not_finite_rows;
      continue;
    }
    layer.row_sum_error = std::max(layer.row_sum_error, std::abs(mass - 1));
    if (i % kRowsPerPaddedRow != 0 || rows.readable_keys <= rows.num_keys) continue;
    const double padded = sum(rows.num_keys, rows.readable_keys - rows.num_keys);
    ++layer.padded_rows;
    layer.padded_mass.add(padded);
  }
}

void InputCheck::merge(const Study& other) {
  const auto& more = dynamic_cast<const InputCheck&>(other).layers_;
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& into = layers_[l];
    const Layer& from = more[l];
    for (int64_t Layer::*count : {&Layer::tokens, &Layer::slots, &Layer::unassigned, &Layer::foreign, &Layer::gates,
                                  &Layer::not_finite_gates, &Layer::negative_gates, &Layer::scored_tokens,
                                  &Layer::largest, &Layer::rows, &Layer::not_finite_rows, &Layer::padded_rows}) {
      into.*count += from.*count;
    }
    into.gate_sum_error = std::max(into.gate_sum_error, from.gate_sum_error);
    into.row_sum_error = std::max(into.row_sum_error, from.row_sum_error);
    into.padded_mass.merge(from.padded_mass);
  }
}

void InputCheck::save(ByteSink& sink) const {
  sink.integer(static_cast<int64_t>(layers_.size()));
  for (const Layer& layer : layers_) {
    for (const int64_t count : {layer.tokens, layer.slots, layer.unassigned, layer.foreign, layer.gates,
                                layer.not_finite_gates, layer.negative_gates, layer.scored_tokens, layer.largest,
                                layer.rows, layer.not_finite_rows, layer.padded_rows}) {
      sink.integer(count);
    }
    sink.real(layer.gate_sum_error);
    sink.real(layer.row_sum_error);
    sink.sum(layer.padded_mass);
  }
}

void InputCheck::load(ByteSource& source) {
  if (source.integer() != static_cast<int64_t>(layers_.size())) ByteSource::refuse();
  for (Layer& layer : layers_) {
    for (int64_t Layer::*count : {&Layer::tokens, &Layer::slots, &Layer::unassigned, &Layer::foreign, &Layer::gates,
                                  &Layer::not_finite_gates, &Layer::negative_gates, &Layer::scored_tokens,
                                  &Layer::largest, &Layer::rows, &Layer::not_finite_rows, &Layer::padded_rows}) {
      layer.*count = source.integer();
    }
    layer.gate_sum_error = source.real();
    layer.row_sum_error = source.real();
    layer.padded_mass = source.sum();
  }
}

Result InputCheck::finalize() const {
  Table table("input_check");
  auto& component = table.texts("component");
  auto& id = table.texts("layer");
  auto& tokens = table.integers("tokens");
  auto& unassigned = table.integers("unassigned_slots");
  auto& foreign = table.integers("foreign_ids");
  auto& not_finite = table.integers("not_finite_gates");
  auto& negative = table.integers("negative_gates");
  auto& gate_sum = table.reals("gate_sum_error");
  auto& largest = table.reals("largest_gates");
  auto& rows = table.integers("attention_rows");
  auto& not_finite_rows = table.integers("not_finite_rows");
  auto& row_sum = table.reals("row_sum_error");
  auto& padded = table.reals("padded_mass");
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    const auto count_if = [](bool there, int64_t count) { return there ? count : kNoInteger; };
    component.push_back(component_);
    id.push_back(ids_[l]);
    tokens.push_back(layer.tokens);
    unassigned.push_back(layer.unassigned);
    foreign.push_back(layer.foreign);
    not_finite.push_back(count_if(layer.gates > 0, layer.not_finite_gates));
    negative.push_back(count_if(layer.gates > 0, layer.negative_gates));
    gate_sum.push_back(layer.scored_tokens > 0 ? layer.gate_sum_error : kUndefined);
    largest.push_back(share(layer.largest, layer.scored_tokens));
    rows.push_back(count_if(layer.rows > 0, layer.rows));
    not_finite_rows.push_back(count_if(layer.rows > 0, layer.not_finite_rows));
    row_sum.push_back(layer.rows > 0 ? layer.row_sum_error : kUndefined);
    padded.push_back(layer.padded_rows > 0 ? layer.padded_mass.value() / static_cast<double>(layer.padded_rows)
                                           : kUndefined);
  }
  const Verdict found = verdict();
  Result result;
  result.tables.push_back(std::move(table));
  int64_t all = 0;
  for (const Layer& layer : layers_) all += layer.tokens;
  result.sentence = fmt::format("{} layers, {} rows of tokens: {}", layers_.size(), all,
                                found.errors.empty() && found.warnings.empty()
                                    ? "nothing is odd"
                                    : fmt::format("{} things are odd", found.errors.size() + found.warnings.size()));
  result.notices = found.errors;
  result.notices.insert(result.notices.end(), found.warnings.begin(), found.warnings.end());
  return result;
}

InputCheck::Verdict InputCheck::verdict() const {
  Verdict verdict;
  // One line a fault, not one a layer: the first layer is named, and how many have it.
  const auto report = [&](std::vector<std::string>& lines, auto is_wrong, auto describe) {
    size_t first = layers_.size(), count = 0;
    for (size_t l = 0; l < layers_.size(); ++l) {
      if (!is_wrong(layers_[l])) continue;
      first = std::min(first, l);
      ++count;
    }
    if (count == 0) return;
    const std::string more = count > 1 ? fmt::format(" (and {} more layers)", count - 1) : "";
    lines.push_back(fmt::format("{}: layer {}: {}{}", component_, ids_[first], describe(layers_[first]), more));
  };
  std::vector<std::string>& grave = is_arrays_ ? verdict.errors : verdict.warnings;
  report(
      grave, [](const Layer& l) { return l.not_finite_gates > 0; },
      [&](const Layer& l) {
        return fmt::format("{} gates of valid tokens are NaN or infinite{}", l.not_finite_gates,
                           is_arrays_ ? "" : "; sums leave them out");
      });
  report(
      grave, [](const Layer& l) { return l.negative_gates > 0; },
      [](const Layer& l) {
        return fmt::format("{} gates of chosen experts are negative; studies take their square roots and shares",
                           l.negative_gates);
      });
  report(
      verdict.errors, [](const Layer& l) { return l.not_finite_rows > 0; },
      [](const Layer& l) {
        return fmt::format("{} of {} attention rows of valid tokens hold NaN or infinity", l.not_finite_rows, l.rows);
      });
  report(
      verdict.warnings, [](const Layer& l) { return l.foreign > 0; },
      [](const Layer& l) {
        return fmt::format("{} of {} ids are no experts of their layer; these slots count in nothing", l.foreign,
                           l.slots);
      });
  report(
      verdict.warnings, [&](const Layer& l) { return is_arrays_ && l.unassigned > l.foreign; },
      [](const Layer& l) {
        return fmt::format("{} of {} slots of valid tokens have no expert (−1)", l.unassigned - l.foreign, l.slots);
      });
  report(
      verdict.warnings, [](const Layer& l) { return l.scored_tokens > 0 && l.gate_sum_error > kSumTolerance; },
      [](const Layer& l) {
        return fmt::format("the gates of a token do not sum to 1 (off by up to {:.3g}): they are no softmax",
                           l.gate_sum_error);
      });
  report(
      verdict.warnings, [](const Layer& l) { return l.largest < l.scored_tokens; },
      [](const Layer& l) {
        return fmt::format("{:.4g} % of the tokens have the K largest gates as their ids",
                           100 * share(l.largest, l.scored_tokens));
      });
  report(
      verdict.warnings, [](const Layer& l) { return l.row_sum_error > kSumTolerance; },
      [](const Layer& l) {
        return fmt::format("attention rows do not sum to 1 over the valid keys (off by up to {:.3g})", l.row_sum_error);
      });
  report(
      verdict.warnings,
      [](const Layer& l) {
        return l.padded_rows > 0 && l.padded_mass.value() / static_cast<double>(l.padded_rows) > kPaddedTolerance;
      },
      [](const Layer& l) {
        return fmt::format("{:.3g} % of the attention of valid tokens lies on padding",
                           100 * l.padded_mass.value() / static_cast<double>(l.padded_rows));
      });
  return verdict;
}

StudyEntry input_check_entry(bool is_arrays) {
  StudyEntry entry;
  entry.name = "input_check";
  entry.question = "Is the input what it should be?";
  entry.needs = kNeedsTokens;
  if (is_arrays) {
    entry.wants = kNeedsGates | kNeedsScores | kNeedsAttention;
    entry.make = [](const ComponentShape& shape, const StudyOptions&) -> std::unique_ptr<Study> {
      return std::make_unique<InputCheck>(shape, true);
    };
  } else {
    entry.make = [](const ComponentShape& shape, const StudyOptions&) -> std::unique_ptr<Study> {
      return std::make_unique<InputCheck>(shape, false);
    };
  }
  return entry;
}

}  // namespace moetap::analysis::studies
