#include "plugin/session/model_binding.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "tests/plugin/support/recorded_run.h"

namespace moetap::plugin {
namespace {

TEST(ModelBinding, AHookIsStoppedOnce) {
  RecordedRun run;
  const auto binding = ModelRegistry::get().find(run.bind(gates(2)));
  EXPECT_FALSE(binding->stopped(1));
  EXPECT_TRUE(binding->stop(1));
  EXPECT_FALSE(binding->stop(1));
  EXPECT_TRUE(binding->stopped(1));
  EXPECT_FALSE(binding->stopped(0));
  EXPECT_THROW(binding->stopped(2), c10::Error);
  EXPECT_THROW(binding->stop(-1), c10::Error);
}

TEST(ModelBinding, FindsTheTextOfEachMethod) {
  Config config;
  config.token_mask = "keep";
  RecordedRun run(config);
  ModelDescription model = gates(1);
  model.method_arguments["generate"] = {"pixels", "keep", "input_ids"};
  const auto binding = ModelRegistry::get().find(run.bind(model));
  EXPECT_EQ(binding->text_arguments("forward").ids, 0u);
  EXPECT_FALSE(binding->text_arguments("forward").mask) << "the configured name is not there";
  EXPECT_EQ(binding->text_arguments("generate").ids, 2u);
  EXPECT_EQ(binding->text_arguments("generate").mask, 1u);
  EXPECT_FALSE(binding->text_arguments("unknown").ids);
}

}  // namespace
}  // namespace moetap::plugin
