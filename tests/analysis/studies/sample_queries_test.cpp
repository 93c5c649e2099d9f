#include "analysis/studies/sample_queries.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

/// What a SampleStudy saves of one sample with one query.
struct SavedSample {
  int64_t num_keys = 4, position = 0;
  size_t received = 0, slots = 2, masses = 0;

  std::string bytes() const {
    ByteSink sink;
    sink.integer(1);
    sink.integer(0);  // the sample
    sink.integer(num_keys);
    sink.sums(std::vector<ExactSum>(received));
    sink.integer(1);
    sink.integer(position);
    sink.integer(7);  // the token's id
    sink.values(std::vector<int32_t>(slots, 1));
    sink.values(std::vector<double>(slots, .5));
    sink.values(std::vector<double>(masses, .25));
    return sink.bytes();
  }
};

void load(Maker make, const SavedSample& sample) {
  const std::string bytes = sample.bytes();
  ByteSource source(bytes);
  const std::unique_ptr<Study> study = make(TestArrays(1, 1, 4, 3, 2).shape(), {});
  study->load(source);
  EXPECT_FALSE(study->finalize().sentence.empty());
}

TEST(SampleStudy, RefusesSavedSamplesThatNoStudyHas) {
  struct Kind {
    Maker make;
    size_t masses;
  };
  for (const Kind& kind : {Kind{make_sankey_token_expert, 0}, Kind{make_sankey_expert_region, 6},
                           Kind{make_sankey_group_expert_region, 5}}) {
    EXPECT_NO_THROW(load(kind.make, {.masses = kind.masses}));
    EXPECT_NO_THROW(load(kind.make, {}));  // a query beyond those that are drawn has none
    for (const SavedSample& wrong :
         {SavedSample{.masses = kind.masses + 1}, SavedSample{.masses = 1}, SavedSample{.position = 4},
          SavedSample{.position = -1}, SavedSample{.num_keys = -1}, SavedSample{.num_keys = int64_t{1} << 60},
          SavedSample{.received = 5}, SavedSample{.slots = 3}}) {
      EXPECT_THROW(load(kind.make, wrong), std::runtime_error) << kind.masses << " " << wrong.masses;
    }
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
