#include "plugin/session/model_registry.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/plugin/support/recorded_run.h"

namespace moetap::plugin {
namespace {

TEST(ModelRegistry, FindsAModelByTheInstanceInItsText) {
  RecordedRun run;
  const ModelDescription model = gates(1);
  EXPECT_EQ(ModelRegistry::get().find(to_text(model)), nullptr);
  const auto binding = ModelRegistry::get().find(run.bind(model));
  ASSERT_NE(binding, nullptr);
  EXPECT_EQ(&binding->recording(), run.recording.get());
  EXPECT_EQ(ModelRegistry::get().find(to_text(gates(1))), nullptr) << "another instance";
  run.close();
  EXPECT_EQ(ModelRegistry::get().find(to_text(model)), nullptr);
}

TEST(ModelRegistry, AnInstanceReportsToOneOpenSession) {
  const ModelDescription model = gates(1);
  RecordedRun second;
  {
    RecordedRun first;
    first.bind(model);
    EXPECT_NO_THROW(first.bind(model));
    EXPECT_THROW(second.bind(model), std::invalid_argument);
  }
  EXPECT_NO_THROW(second.bind(model));
}

}  // namespace
}  // namespace moetap::plugin
