#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "cli/studies/array_source.h"
#include "cli/studies/libmoe_log.h"
#include "cli/studies/npy_header.h"
#include "cli/studies/partial_file.h"
#include "cli/studies/r3_source.h"
#include "cli/studies/study_sums.h"
#include "plugin/formats/checksum.h"
#include "tests/support/damaged_bytes.h"

// Files that are damaged in any way are read or refused with a reason: nothing else. MOETAP_FUZZ_ROUNDS says how many.

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLayers = 2, kSamples = 2, kLength = 5, kExperts = 6, kTopK = 2;

class ReaderFuzz : public ::testing::Test {
 protected:
  ReaderFuzz() : folder_(fs::temp_directory_path() / ("moetap-fuzz-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~ReaderFuzz() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& bytes) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    return path;
  }

  /// Calls `read` for damaged copies of `whole`; expects that some are read and the others refused.
  static void read_damaged(const std::string& whole, int64_t rounds, const std::function<void(std::string)>& read) {
    std::mt19937_64 random(7);
    int64_t refused = 0;
    for (int64_t round = 0; round < tests::fuzz_rounds(rounds); ++round) {
      try {
        read(tests::damaged(whole, random));
      } catch (const std::exception& error) {
        ++refused;
        ASSERT_NE(error.what(), std::string());  // a name of the file may hold a line's end: main prints one line
      }
    }
    EXPECT_GT(refused, 0);
    EXPECT_LT(refused, tests::fuzz_rounds(rounds));
  }

  fs::path folder_;
};

template <typename Value>
std::string npy(const char* dtype, const std::vector<int64_t>& shape, const std::vector<Value>& values) {
  std::string literal = std::string("{'descr': '") + dtype + "', 'fortran_order': False, 'shape': (";
  for (const int64_t size : shape) literal += std::to_string(size) + ", ";
  literal += "), }\n";
  std::string bytes("\x93NUMPY\x01\0", 8);
  bytes += static_cast<char>(literal.size() & 0xff);
  bytes += static_cast<char>(literal.size() >> 8);
  return bytes + literal + std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value));
}

/// The notebook's arrays, small: the second sample ends with padding.
void write_arrays(const fs::path& folder) {
  std::mt19937_64 random(3);
  const auto save = [&](const char* name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
  };
  std::vector<int32_t> types, ids;
  std::vector<float> gates, attention;
  for (int64_t i = 0; i < kSamples * kLength; ++i) types.push_back(i >= kSamples * kLength - 2 ? -1 : 1 + i % 3);
  for (int64_t i = 0; i < kLayers * kSamples * kLength; ++i) {
    const auto first = static_cast<int32_t>(random() % kExperts);
    ids.insert(ids.end(), {first, static_cast<int32_t>((first + 1 + random() % (kExperts - 1)) % kExperts)});
    for (int64_t e = 0; e < kExperts; ++e) gates.push_back(1.0F / kExperts);
    const int64_t n = i / kLength % kSamples == 0 ? kLength : kLength - 2;
    for (int64_t j = 0; j < kLength; ++j) attention.push_back(j < n ? 1.0F / static_cast<float>(n) : 0);
  }
  save("token_types.npy", npy("<i4", {kSamples, kLength}, types));
  save("topk_idx.npy", npy("<i4", {kLayers, kSamples, kLength, kTopK}, ids));
  save("gate_scores.npy", npy("<f4", {kLayers, kSamples, kLength, kExperts}, gates));
  save("attn_weights.npy", npy("<f4", {kLayers, kSamples, kLength, kLength}, attention));
}

/// A partial of every study that arrays, and a pair of them, allow.
Partial partial_of_arrays(const fs::path& folder) {
  const auto definitions = studies::Definitions::kRecommended;
  const ArraySource source(open_arrays(folder.string(), definitions), GateOption::kRaw, false);
  AnalysisPlan plan;
  plan.is_arrays = true;
  plan.options.matrices = true;
  AnalysisPlan::OfComponent component{source.shape(), {"input_check"}};
  std::vector<std::string> notices;
  AnalysisPlan::OfPair pair{pair_of_shapes(source.shape(), source.shape(), "a", "b", notices), {}};
  for (const studies::StudyEntry& entry : studies::all_studies()) {
    const uint32_t has = source.has() | studies::kNeedsTwoRuns;
    if (!missing_input(entry, has).empty()) continue;
    (entry.make != nullptr ? component.studies : pair.studies).emplace_back(entry.name);
  }
  EXPECT_GT(component.studies.size(), 20U);
  EXPECT_EQ(pair.studies.size(), 4U);
  plan.components.push_back(component);
  plan.pairs.push_back(pair);
  StudySums sums(plan);
  make_studies(source, sums.of_component(0), {});
  make_pair_studies(source, source, pair.shape, sums.of_pair(0), {});
  return sums.to_partial(0, 1);
}

/// What `moetap analyze --merge` does with a file.
void merge(const std::string& path) {
  const std::vector<Partial> partials{read_partial(path)};
  check_partials(partials, {path});
  StudySums sums(AnalysisPlan::from_json(partials.front().what));
  sums.merge(partials.front());
  sums.finalize();
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(ReaderFuzz, PartialsOfWrongBytes) {
  write_arrays(folder_);
  const std::string path = (folder_ / "partial.bin").string();
  write_partial(partial_of_arrays(folder_), path);
  merge(path);
  const std::string whole = bytes_of(path);
  std::mt19937_64 random(1);
  for (int64_t round = 0; round < tests::fuzz_rounds(20000); ++round) {
    const std::string bytes = tests::damaged(whole, random);
    if (bytes == whole) continue;
    EXPECT_THROW(read_partial(write("damaged.bin", bytes)), std::exception);
  }
}

/// With a checksum that fits, as a forger would write it: what a study saved may then be anything.
TEST_F(ReaderFuzz, PartialsWithAFittingChecksum) {
  write_arrays(folder_);
  const Partial whole = partial_of_arrays(folder_);
  std::mt19937_64 random(2);
  int64_t refused = 0;
  const int64_t rounds = tests::fuzz_rounds(4000);
  for (int64_t round = 0; round < rounds; ++round) {
    Partial partial = whole;
    std::string& study = partial.studies[random() % partial.studies.size()];
    if (!study.empty()) study = tests::damaged(study, random);
    const std::string path = (folder_ / "damaged.bin").string();
    write_partial(partial, path);
    try {
      merge(path);
    } catch (const std::exception& error) {
      ++refused;
      ASSERT_NE(error.what(), std::string());
    }
  }
  EXPECT_GT(refused, rounds / 10);
}

/// The header of a partial, likewise. Shapes that ask for more memory than a test has are left out.
TEST_F(ReaderFuzz, PartialsWithAnotherHeader) {
  write_arrays(folder_);
  const Partial whole = partial_of_arrays(folder_);
  const std::string header = whole.what.dump();
  read_damaged(header, 4000, [&](const std::string& text) {
    Partial partial = whole;
    partial.what = nlohmann::ordered_json::parse(text);
    const AnalysisPlan plan = AnalysisPlan::from_json(partial.what);
    for (const AnalysisPlan::OfComponent& of : plan.components) {
      for (const studies::LayerShape& layer : of.shape.layers) {
        if (layer.num_experts > 1000) throw std::runtime_error("too large for a test");
      }
      if (of.shape.padded_length > 1000) throw std::runtime_error("too large for a test");
    }
    for (const AnalysisPlan::OfPair& of : plan.pairs) {
      for (const studies::ComponentShape* shape : {&of.shape.a, &of.shape.b}) {
        for (const studies::LayerShape& layer : shape->layers) {
          if (layer.num_experts > 1000) throw std::runtime_error("too large for a test");
        }
      }
    }
    StudySums sums(plan);
    sums.merge(partial);
    sums.finalize();
  });
}

TEST_F(ReaderFuzz, LibMoesLogs) {
  const std::string whole = R"({"args": {}, "model_configs": {"task": "mme"}, "logs": [
  {"doc_id": 0, "doc": {"category": "OCR"}, "logs_metrics_vision": [[{"time_inference": 0.25,
   "0": {"entropy_weight_topk": 1.08, "entropy_weight_all": 1.76, "dist_experts_top1": [3, 3, 2], "dist_experts_top2":
   [8, 8, 8], "router_magine": [0.004, 0.016], "diver_loss": 0.5, "selected_experts": [5, 1, 2, 0]}, "mm_projector": {}}]]},
  {"doc_id": 1, "logs_metrics_moe": {"language_model": {"3": {"entropy_weight_topk": 0.5, "selected_experts": [1]}}}}]})";
  read_damaged(whole, 20000, [&](const std::string& text) {
    AnalysisPlan plan;
    studies::ComponentShape shape;
    shape.name = "log";
    plan.components.push_back({shape, {"logged_metrics", "logged_switch_fraction"}});
    StudySums sums(plan);
    for (int32_t run = 0; run < 2; ++run) {
      LibMoeLog(write("log.json", text), run, 0)
          .read(
              [&](const studies::LoggedEntry& entry) {
                for (RunningStudy& of : sums.of_component(0)) of.study->observe(entry);
              },
              [] {});
    }
    sums.finalize();
  });
}

TEST_F(ReaderFuzz, RoutedIds) {
  std::vector<int16_t> ids;
  for (int16_t i = 0; i < 24; ++i) ids.push_back(static_cast<int16_t>(i * 5 % 7));
  read_damaged(npy("<i2", {4, 3, 2}, ids), 20000, [&](const std::string& bytes) {
    const std::string path = write("ids.npy", bytes);
    const R3Source source({path}, 0, [] {});
    if (source.shape().layers.size() > 1000 || source.shape().layers.front().num_experts > 100000) return;
    const auto reader = source.open(source.has());
    const int64_t n = std::min<int64_t>(source.num_tokens(studies::Order::kTokens), 1000);
    if (n == 0) return;
    const studies::TokenBatch& batch = reader->read(studies::Order::kTokens, 0, n);
    for (const studies::LayerTokens& layer : batch.layers) {
      for (const int32_t id : layer.ids) ASSERT_LT(id, layer.num_experts);
    }
  });
}

}  // namespace
}  // namespace moetap::cli
