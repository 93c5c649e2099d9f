#include "tests/analysis/studies/routing_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

template <typename Value>
std::span<const Value> part(const std::vector<Value>& values, int64_t first, int64_t last, int64_t width = 1) {
  if (values.empty()) return {};
  return std::span<const Value>(values).subspan(static_cast<size_t>(first * width),
                                                static_cast<size_t>((last - first) * width));
}

/// Cuts [0, T) into pieces that the order allows.
std::vector<std::pair<int64_t, int64_t>> random_pieces(const RoutingTokens& tokens, Order order, std::mt19937& random) {
  std::vector<std::pair<int64_t, int64_t>> pieces;
  for (int64_t first = 0; first < tokens.size();) {
    int64_t last = first + 1 + static_cast<int64_t>(random() % 20);
    const auto may_cut = [&](int64_t at) {
      const auto i = static_cast<size_t>(at);
      if (tokens.source[i] != tokens.source[i - 1]) return true;
      if (order == Order::kForwards) return tokens.forward[i] != tokens.forward[i - 1];
      return order == Order::kTokens || tokens.sample[i] != tokens.sample[i - 1] || tokens.sample[i] < 0;
    };
    last = std::min(last, tokens.size());
    while (last < tokens.size() && !may_cut(last)) ++last;
    pieces.emplace_back(first, last);
    first = last;
  }
  return pieces;
}

template <typename AnyStudy>
std::unique_ptr<AnyStudy> saved_and_loaded(const AnyStudy& study, std::unique_ptr<AnyStudy> empty) {
  ByteSink sink;
  study.save(sink);
  ByteSource source(sink.bytes());
  empty->load(source);
  EXPECT_TRUE(source.at_end());
  return empty;
}

template <typename Value>
bool same_bits(const Value& a, const Value& b) {
  if constexpr (std::is_same_v<Value, double>)
    return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b) || (a != a && b != b);
  else
    return a == b;
}

}  // namespace

void RoutingTokens::add_token(int64_t of_sample, int64_t of_forward, uint8_t of_phase, int32_t id) {
  const int32_t place = !sample.empty() && sample.back() == of_sample ? step.back() + 1 : 0;
  sample.push_back(of_sample);
  forward.push_back(of_forward);
  source.push_back(0);
  position.push_back(place);
  step.push_back(place);
  token_id.push_back(id);
  group.push_back(0);
  phase.push_back(of_phase);
}

TokenBatch RoutingTokens::batch(int64_t first, int64_t last) const {
  TokenBatch batch;
  batch.first_token = first;
  batch.num_tokens = last - first;
  batch.sample = part(sample, first, last);
  batch.source = part(source, first, last);
  batch.forward = part(forward, first, last);
  batch.position = part(position, first, last);
  batch.step = part(step, first, last);
  batch.token_id = part(token_id, first, last);
  batch.phase = part(phase, first, last);
  batch.group = part(group, first, last);
  for (const RoutingLayer& layer : layers) {
    LayerTokens view;
    view.num_experts = layer.num_experts;
    view.top_k = layer.top_k;
    view.ids = part(layer.ids, first, last, layer.top_k);
    view.weights = part(layer.weights, first, last, layer.top_k);
    view.scores = part(layer.scores, first, last, layer.num_experts);
    view.logits = part(layer.logits, first, last, layer.num_experts);
    view.seen = part(layer.seen, first, last);
    batch.layers.push_back(view);
  }
  return batch;
}

ComponentShape RoutingTokens::shape(const std::string& scoring) const {
  ComponentShape shape;
  shape.name = "language_model";
  for (size_t l = 0; l < layers.size(); ++l) {
    shape.layers.push_back({std::to_string(l), "", layers[l].num_experts, 0, layers[l].top_k, scoring});
  }
  shape.groups = {"code", "text"};
  return shape;
}

RoutingTokens one_layer(int64_t num_experts, const std::vector<std::vector<int32_t>>& ids,
                        const std::vector<std::vector<double>>& weights) {
  RoutingTokens tokens;
  RoutingLayer layer;
  layer.num_experts = num_experts;
  layer.top_k = ids.empty() ? 1 : static_cast<int64_t>(ids[0].size());
  for (const auto& of_token : ids) {
    tokens.add_token(0);
    layer.ids.insert(layer.ids.end(), of_token.begin(), of_token.end());
  }
  for (const auto& of_token : weights) layer.weights.insert(layer.weights.end(), of_token.begin(), of_token.end());
  tokens.layers.push_back(std::move(layer));
  return tokens;
}

RoutingTokens random_tokens(std::mt19937& random, const RandomTokens& with, bool by_forward) {
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  RoutingTokens tokens;
  for (int s = 0; s < with.num_samples; ++s) {
    const int64_t length = 1 + below(with.max_tokens), prompt = 1 + below(length);
    for (int64_t t = 0; t < length; ++t) {
      const bool is_prompt = t < prompt;
      tokens.add_token(s, is_prompt ? 100 * s : 100 * s + t, is_prompt ? 0 : 1,
                       below(8) == 0 ? -1 : static_cast<int32_t>(below(with.vocabulary)));
      tokens.source.back() = by_forward ? s % 2 : 0;
      tokens.group.back() = below(12) == 0 ? -1 : s % with.num_groups;
    }
  }
  for (int t = 0; with.has_unknown_samples && t < 7; ++t) {
    tokens.add_token(-1, 100000, 0, 0);
    tokens.step.back() = -1;
  }
  std::uniform_real_distribution<double> unit(0, 1);
  for (int l = 0; l < with.num_layers; ++l) {
    RoutingLayer layer{with.num_experts, with.top_k, {}, {}, {}, {}, {}};
    for (int64_t t = 0; t < tokens.size(); ++t) {
      std::vector<int32_t> experts(static_cast<size_t>(with.num_experts));
      for (size_t e = 0; e < experts.size(); ++e) experts[e] = static_cast<int32_t>(e);
      std::shuffle(experts.begin(), experts.end(), random);
      for (int64_t k = 0; k < with.top_k; ++k) {
        layer.ids.push_back(below(10) == 0 ? -1 : experts[static_cast<size_t>(k)]);
        layer.weights.push_back(below(10) == 0 ? 0 : unit(random));
      }
      for (int64_t e = 0; e < with.num_experts; ++e) {
        layer.scores.push_back(unit(random));
        layer.logits.push_back(4 * unit(random) - 2);
      }
      layer.seen.push_back(below(15) != 0);
    }
    tokens.layers.push_back(std::move(layer));
  }
  return tokens;
}

Result analyse(Study& study, const RoutingTokens& tokens) {
  for (int pass = 0; pass < study.num_passes(); ++pass) {
    if (pass > 0) study.begin_pass(pass);
    study.observe(tokens.all());
  }
  return study.finalize();
}

void expect_same_for_any_split(const std::function<std::unique_ptr<Study>()>& make, const RoutingTokens& tokens,
                               Order order, std::mt19937& random) {
  const std::unique_ptr<Study> whole = make();
  const Result expected = analyse(*whole, tokens);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::unique_ptr<Study> total;
    for (int pass = 0; pass < whole->num_passes(); ++pass) {
      if (pass > 0) total->begin_pass(pass);
      std::vector<std::unique_ptr<Study>> workers;
      for (int w = 0; w < 3; ++w) workers.push_back(pass == 0 ? make() : total->fork());
      for (const auto& [first, last] : random_pieces(tokens, order, random)) {
        workers[random() % workers.size()]->observe(tokens.batch(first, last));
      }
      if (pass + 1 == whole->num_passes()) {  // what shards save
        for (auto& worker : workers) worker = saved_and_loaded(*worker, make());
      }
      std::shuffle(workers.begin(), workers.end(), random);
      total = std::move(workers.back());
      workers.pop_back();
      for (const auto& worker : workers) total->merge(*worker);
    }
    expect_same_result(expected, total->finalize());
  }
}

void expect_same_for_any_split(const std::function<std::unique_ptr<PairStudy>()>& make, const RoutingTokens& a,
                               const RoutingTokens& b, std::mt19937& random) {
  const std::unique_ptr<PairStudy> whole = make();
  whole->observe(PairBatch{a.all(), b.all()});
  const Result expected = whole->finalize();
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<std::unique_ptr<PairStudy>> workers;
    for (int w = 0; w < 3; ++w) workers.push_back(make());
    for (const auto& [first, last] : random_pieces(a, Order::kSamples, random)) {
      workers[random() % workers.size()]->observe(PairBatch{a.batch(first, last), b.batch(first, last)});
    }
    for (auto& worker : workers) worker = saved_and_loaded(*worker, make());
    std::shuffle(workers.begin(), workers.end(), random);
    for (size_t w = 1; w < workers.size(); ++w) workers[0]->merge(*workers[w]);
    expect_same_result(expected, workers[0]->finalize());
  }
}

void expect_same_result(const Result& expected, const Result& found) {
  EXPECT_EQ(expected.sentence, found.sentence);
  EXPECT_EQ(expected.notices, found.notices);
  ASSERT_EQ(expected.tables.size(), found.tables.size());
  for (size_t i = 0; i < expected.tables.size(); ++i) {
    const Table &a = expected.tables[i], &b = found.tables[i];
    EXPECT_EQ(a.name(), b.name());
    ASSERT_EQ(column_names(a), column_names(b));
    for (size_t c = 0; c < a.columns().size(); ++c) {
      const Column &of_a = *a.columns()[c], &of_b = *b.columns()[c];
      ASSERT_EQ(of_a.size(), of_b.size()) << a.name() << " " << of_a.name;
      std::visit(
          [&](const auto& cells) {
            const auto& others = std::get<std::decay_t<decltype(cells)>>(of_b.cells);
            for (size_t row = 0; row < cells.size(); ++row) {
              EXPECT_TRUE(same_bits(cells[row], others[row])) << a.name() << " " << of_a.name << " row " << row;
            }
          },
          of_a.cells);
    }
  }
}

const std::vector<double>& reals(const Table& table, const std::string& column) {
  if (table.find(column) == nullptr) throw std::runtime_error("no column " + column);
  return std::get<std::vector<double>>(table.find(column)->cells);
}
const std::vector<int64_t>& integers(const Table& table, const std::string& column) {
  if (table.find(column) == nullptr) throw std::runtime_error("no column " + column);
  return std::get<std::vector<int64_t>>(table.find(column)->cells);
}
const std::vector<std::string>& texts(const Table& table, const std::string& column) {
  if (table.find(column) == nullptr) throw std::runtime_error("no column " + column);
  return std::get<std::vector<std::string>>(table.find(column)->cells);
}
std::vector<std::string> column_names(const Table& table) {
  std::vector<std::string> names;
  for (const Column* column : table.columns()) names.push_back(column->name);
  return names;
}

}  // namespace moetap::analysis::studies
