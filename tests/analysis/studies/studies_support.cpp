#include "tests/analysis/studies/studies_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "analysis/studies/row_scratch.h"
#include "analysis/studies/usage_scratch.h"

namespace moetap::analysis::studies {
namespace {

double uniform(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

/// Owns what a batch shows.
struct BatchArrays {
  std::vector<int64_t> sample, forward;
  std::vector<int32_t> source, position, step, token_id;
  std::vector<uint8_t> phase, valid;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<double>> gates;
};

bool same_bits(double a, double b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}

}  // namespace

TestArrays::TestArrays(int64_t L, int64_t B, int64_t S, int64_t E, int64_t K)
    : L(L),
      B(B),
      S(S),
      E(E),
      K(K),
      types(static_cast<size_t>(B * S)),
      ids(static_cast<size_t>(L * B * S * K)),
      gates(static_cast<size_t>(L * B * S * K)),
      attention(static_cast<size_t>(L * B * S * S)) {}

int64_t TestArrays::length(int64_t b) const {
  int64_t length = 0;
  for (int64_t s = 0; s < S; ++s) length += types[static_cast<size_t>(b * S + s)] != -1;
  return length;
}

ComponentShape TestArrays::shape() const {
  ComponentShape shape;
  shape.name = "arrays";
  shape.padded_length = S;
  for (int64_t l = 0; l < L; ++l) shape.layers.push_back({std::to_string(l), "", E, 0, K, ""});
  return shape;
}

TestArrays random_arrays(uint64_t seed, int64_t L, int64_t B, int64_t S, int64_t E, int64_t K, int64_t shortest) {
  TestArrays arrays(L, B, S, E, K);
  std::mt19937_64 random(seed);
  for (int64_t b = 0; b < B; ++b) {
    const auto length = shortest + static_cast<int64_t>(random() % static_cast<uint64_t>(S - shortest + 1));
    for (int64_t s = 0; s < S; ++s) arrays.type(b, s) = s < length ? static_cast<int32_t>(random() % 20) : -1;
  }
  for (int64_t l = 0; l < L; ++l) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t s = 0; s < S; ++s) {
        std::vector<double> gates;
        for (int64_t e = 0; e < E; ++e) gates.push_back(std::exp(3 * uniform(random)));
        const double total = std::accumulate(gates.begin(), gates.end(), 0.0);
        std::vector<int32_t> order(static_cast<size_t>(E));
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        for (int64_t k = 0; k < K; ++k) {
          int32_t id = order[static_cast<size_t>(k)];
          if (random() % 50 == 0) id = -1;
          if (k > 0 && random() % 50 == 0) id = arrays.ids[arrays.slot(l, b, s, 0)];
          arrays.ids[arrays.slot(l, b, s, k)] = id;
          if (id >= 0) arrays.gates[arrays.slot(l, b, s, k)] = gates[static_cast<size_t>(id)] / total;
        }
        const int64_t keys = std::max<int64_t>(1, arrays.length(b));
        double mass = 0;
        for (int64_t j = 0; j < S; ++j) {
          auto& cell = arrays.attention[arrays.cell(l, b, s, j)];
          cell = static_cast<float>(std::exp(-0.3 * static_cast<double>(std::abs(s - j))) + 0.1 * uniform(random));
          if (j < keys) mass += static_cast<double>(cell);
        }
        for (int64_t j = 0; j < S; ++j) {
          auto& cell = arrays.attention[arrays.cell(l, b, s, j)];
          cell = static_cast<float>(static_cast<double>(cell) / mass);
        }
      }
    }
  }
  return arrays;
}

void feed(Study& study, const TestArrays& arrays, const std::vector<int64_t>& samples, const Feed& how) {
  BatchArrays own;
  own.ids.resize(static_cast<size_t>(arrays.L));
  own.gates.resize(static_cast<size_t>(arrays.L));
  for (const int64_t b : samples) {
    for (int64_t s = 0; s < arrays.S; ++s) {
      const int32_t type = arrays.types[static_cast<size_t>(b * arrays.S + s)];
      if (type == -1 && !how.padding) continue;
      own.sample.push_back(b);
      own.forward.push_back(-1);
      own.source.push_back(0);
      own.position.push_back(static_cast<int32_t>(s));
      own.step.push_back(-1);
      own.token_id.push_back(type);
      own.phase.push_back(0);
      own.valid.push_back(type != -1);
      for (int64_t l = 0; l < arrays.L; ++l) {
        for (int64_t k = 0; k < arrays.K; ++k) {
          own.ids[static_cast<size_t>(l)].push_back(arrays.ids[arrays.slot(l, b, s, k)]);
          own.gates[static_cast<size_t>(l)].push_back(arrays.gates[arrays.slot(l, b, s, k)]);
        }
      }
    }
  }
  TokenBatch batch;
  batch.num_tokens = static_cast<int64_t>(own.sample.size());
  batch.sample = own.sample;
  batch.source = own.source;
  batch.forward = own.forward;
  batch.position = own.position;
  batch.step = own.step;
  batch.token_id = own.token_id;
  batch.phase = own.phase;
  batch.valid = own.valid;
  const auto layer_of = [&](const int32_t* ids, const double* gates, int64_t tokens) {
    LayerTokens layer;
    layer.num_experts = arrays.E;
    layer.top_k = arrays.K;
    layer.ids = {ids, static_cast<size_t>(tokens * arrays.K)};
    layer.gates = {gates, static_cast<size_t>(tokens * arrays.K)};
    layer.weights = layer.gates;
    return layer;
  };
  for (size_t l = 0; l < own.ids.size(); ++l) {
    batch.layers.push_back(layer_of(own.ids[l].data(), own.gates[l].data(), batch.num_tokens));
  }
  UsageScratch usage;
  RowScratch values;
  usage.begin();
  if (how.scratch) batch.usage = &usage;
  if (how.tokens) study.observe(batch);
  if (!how.attention) return;
  for (int64_t l = 0; l < arrays.L; ++l) {
    for (const int64_t b : samples) {
      const int64_t n = arrays.length(b);
      const int64_t block = how.query_block > 0 ? how.query_block : std::max<int64_t>(1, n);
      for (int64_t first = 0; first < n; first += block) {
        AttentionRows rows;
        rows.layer = l;
        rows.sample = b;
        rows.first_query = first;
        rows.num_queries = std::min(block, n - first);
        rows.num_keys = n;
        rows.padded_length = arrays.S;
        rows.row_stride = arrays.S;
        if (arrays.attention_f64.empty()) {
          rows.f32 = arrays.attention.data() + arrays.cell(l, b, first, 0);
        } else {
          rows.f64 = arrays.attention_f64.data() + arrays.cell(l, b, first, 0);
        }
        rows.token_id = {arrays.types.data() + b * arrays.S + first, static_cast<size_t>(rows.num_queries)};
        const size_t slot = arrays.slot(l, b, first, 0);
        rows.tokens = layer_of(arrays.ids.data() + slot, arrays.gates.data() + slot, rows.num_queries);
        values.begin();
        if (how.scratch) rows.values = &values;
        study.observe(rows);
      }
    }
  }
}

Result result_of(Maker make, const TestArrays& arrays, const StudyOptions& options, const Feed& how) {
  const std::unique_ptr<Study> study = make(arrays.shape(), options);
  std::vector<int64_t> samples(static_cast<size_t>(arrays.B));
  std::iota(samples.begin(), samples.end(), int64_t{0});
  feed(*study, arrays, samples, how);
  return study->finalize();
}

namespace {

const Table& table_of(const Result& result, const std::string& name) {
  for (const Table& table : result.tables) {
    if (table.name() == name) return table;
  }
  throw std::logic_error("no table " + name);
}

const Column& column_of(const Result& result, const std::string& table, const std::string& name) {
  const Column* const found = table_of(result, table).find(name);
  if (found == nullptr) throw std::logic_error("no column " + name + " in " + table);
  return *found;
}

}  // namespace

std::vector<double> column(const Result& result, const std::string& table, const std::string& name) {
  const Column& found = column_of(result, table, name);
  if (const auto* reals = std::get_if<std::vector<double>>(&found.cells)) return *reals;
  const auto& integers = std::get<std::vector<int64_t>>(found.cells);
  return {integers.begin(), integers.end()};
}

std::vector<std::string> texts(const Result& result, const std::string& table, const std::string& name) {
  return std::get<std::vector<std::string>>(column_of(result, table, name).cells);
}

std::string header(const Result& result, const std::string& table) {
  std::string names;
  for (const Column* one : table_of(result, table).columns()) names += (names.empty() ? "" : ",") + one->name;
  return names;
}

TestArrays hand_arrays() {
  TestArrays arrays(2, 2, 3, 3, 2);
  arrays.type(1, 2) = -1;
  arrays.ids = {0, 1, 0, 2, 0, 1, /**/ 1, 2, 0, 1, 2, 2,  // layer 0; the last two: padding
                2, 1, 2, 1, 2, 0, /**/ 2, 1, 0, 1, 0, 0};
  arrays.gates = {.5, .25, .75, .25, .5, .5, /**/ .5, .25, .25, .5, 1, 1,
                  .5, .5,  .5,  .25, 1,  0,  /**/ .5, .5,  .5,  .5, 1, 1};
  return arrays;
}

TestArrays sample_arrays(int64_t n) {
  TestArrays arrays(1, 1, n, 3, 2);
  for (int64_t s = 0; s < n; ++s) {
    arrays.type(0, s) = static_cast<int32_t>(s);
    arrays.ids[arrays.slot(0, 0, s, 0)] = 0;
    arrays.ids[arrays.slot(0, 0, s, 1)] = s % 2 == 0 ? 1 : 2;
    arrays.gates[arrays.slot(0, 0, s, 0)] = .5;
    arrays.gates[arrays.slot(0, 0, s, 1)] = .25;
    for (int64_t j = 0; j < n; ++j)
      arrays.attention[arrays.cell(0, 0, s, j)] = j == 0 ? .5F : .5F / static_cast<float>(n - 1);
  }
  return arrays;
}

Result result_of_sequences(Maker make, const std::vector<SequenceRecord>& records, const StudyOptions& options) {
  const std::unique_ptr<Study> study = make({}, options);
  for (const SequenceRecord& record : records) study->observe(record);
  return study->finalize();
}

void for_each_slot(const TestArrays& arrays, int64_t l, const VisitSlot& visit) {
  for (int64_t b = 0; b < arrays.B; ++b) {
    const int64_t n = arrays.length(b);
    for (int64_t i = 0; i < n; ++i) {
      std::vector<double> row;
      for (int64_t j = 0; j < n; ++j) row.push_back(static_cast<double>(arrays.attention[arrays.cell(l, b, i, j)]));
      for (int64_t k = 0; k < arrays.K; ++k) {
        const size_t slot = arrays.slot(l, b, i, k);
        if (arrays.ids[slot] >= 0) visit(b, n, i, row, arrays.ids[slot], arrays.gates[slot]);
      }
    }
  }
}

void expect_close(double found, double expected, const std::string& what) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(found)) << what;
  } else {
    EXPECT_NEAR(found, expected, 1e-10 * std::abs(expected)) << what;
  }
}

void expect_equal(const Result& a, const Result& b) {
  EXPECT_EQ(a.sentence, b.sentence);
  EXPECT_EQ(a.notices, b.notices);
  ASSERT_EQ(a.tables.size(), b.tables.size());
  for (size_t t = 0; t < a.tables.size(); ++t) {
    const std::string name = a.tables[t].name();
    ASSERT_EQ(header(a, name), header(b, name));
    for (const Column* one : a.tables[t].columns()) {
      const Column* const other = b.tables[t].find(one->name);
      ASSERT_EQ(one->size(), other->size()) << name << "." << one->name;
      if (const auto* reals = std::get_if<std::vector<double>>(&one->cells)) {
        const auto& others = std::get<std::vector<double>>(other->cells);
        for (size_t i = 0; i < reals->size(); ++i) {
          ASSERT_TRUE(same_bits((*reals)[i], others[i]))
              << name << "." << one->name << "[" << i << "]: " << (*reals)[i] << ", " << others[i];
        }
      } else {
        EXPECT_EQ(one->cells, other->cells) << name << "." << one->name;
      }
    }
  }
  ASSERT_EQ(a.matrices.size(), b.matrices.size());
  for (size_t m = 0; m < a.matrices.size(); ++m) {
    EXPECT_EQ(a.matrices[m].name, b.matrices[m].name);
    EXPECT_EQ(a.matrices[m].shape, b.matrices[m].shape);
    EXPECT_EQ(a.matrices[m].values, b.matrices[m].values);
  }
}

void expect_exact_merge(Maker make, const TestArrays& arrays, const StudyOptions& options, const Feed& how) {
  const Result whole = result_of(make, arrays, options, how);
  std::mt19937_64 random(7);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::vector<int64_t>> shares(4);
    for (int64_t b = 0; b < arrays.B; ++b) shares[random() % shares.size()].push_back(b);
    std::shuffle(shares.begin(), shares.end(), random);
    const std::unique_ptr<Study> total = make(arrays.shape(), options);
    for (std::vector<int64_t>& share : shares) {
      std::shuffle(share.begin(), share.end(), random);
      const std::unique_ptr<Study> part = make(arrays.shape(), options);
      feed(*part, arrays, share, how);
      ByteSink sink;
      part->save(sink);
      ByteSource source(sink.bytes());
      const std::unique_ptr<Study> loaded = make(arrays.shape(), options);
      loaded->load(source);
      EXPECT_TRUE(source.at_end());
      total->merge(*loaded);
      ByteSource cut(std::string_view(sink.bytes()).substr(0, sink.bytes().size() - 1));
      EXPECT_THROW(make(arrays.shape(), options)->load(cut), std::runtime_error);
    }
    expect_equal(whole, total->finalize());
  }
}

void expect_padding_is_not_data(Maker make, const TestArrays& arrays, const StudyOptions& options) {
  const Result expected = result_of(make, arrays, options);
  std::mt19937_64 random(11);
  std::vector<int64_t> order(static_cast<size_t>(arrays.B));
  std::iota(order.begin(), order.end(), int64_t{0});
  // The Sankeys draw samples by number: those stay where they are.
  const bool by_number =
      expected.tables.front().name().starts_with("sankey_") && expected.tables.front().name() != "sankey_evolution";
  if (!by_number) std::shuffle(order.begin(), order.end(), random);
  TestArrays longer(arrays.L, arrays.B, arrays.S + 3, arrays.E, arrays.K);
  for (int64_t b = 0; b < arrays.B; ++b) {
    const int64_t from = order[static_cast<size_t>(b)];
    const int64_t n = arrays.length(from);
    for (int64_t s = 0; s < longer.S; ++s)
      longer.type(b, s) = s < n ? arrays.types[static_cast<size_t>(from * arrays.S + s)] : -1;
    for (int64_t l = 0; l < arrays.L; ++l) {
      for (int64_t s = 0; s < longer.S; ++s) {
        for (int64_t k = 0; k < arrays.K; ++k) {
          const bool valid = s < n;
          longer.ids[longer.slot(l, b, s, k)] = valid
                                                    ? arrays.ids[arrays.slot(l, from, s, k)]
                                                    : static_cast<int32_t>(random() % static_cast<uint64_t>(arrays.E));
          longer.gates[longer.slot(l, b, s, k)] = valid ? arrays.gates[arrays.slot(l, from, s, k)] : uniform(random);
        }
        for (int64_t j = 0; j < longer.S; ++j) {
          longer.attention[longer.cell(l, b, s, j)] =
              s < n && j < n ? arrays.attention[arrays.cell(l, from, s, j)] : static_cast<float>(uniform(random));
        }
      }
    }
  }
  Result found = result_of(make, longer, options, {.padding = true});
  // The notebook's strength is of S * S cells, so it follows S in both definitions.
  if (expected.tables.front().name() == "expert_attention_summary") {
    const std::vector<double> before = column(expected, "expert_attention_summary", "strength_nb");
    const std::vector<double> after = column(found, "expert_attention_summary", "strength_nb");
    const double factor = static_cast<double>(arrays.S * arrays.S) / static_cast<double>(longer.S * longer.S);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(after[i], before[i] * factor, 1e-15);
    for (const char* name : {"layer", "expert_id", "gate_mass", "gate_share", "mean_distance"}) {
      EXPECT_EQ(column(expected, "expert_attention_summary", name).size(), before.size());
      const auto a = column(expected, "expert_attention_summary", name),
                 b = column(found, "expert_attention_summary", name);
      for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << name << " " << i;
    }
    return;
  }
  expect_equal(expected, found);
}

StudyOptions notebook_options() {
  StudyOptions options;
  options.definitions = Definitions::kNotebook;
  return options;
}

}  // namespace moetap::analysis::studies
