// Which methods a host calls, those of submodules included.
#include "hooks/graph/entry_methods.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "hooks/instrument.h"
#include "tests/hooks/moe_sources.h"
#include "tests/hooks/router_patterns.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

jit::Module block(uint64_t seed = 7) {
  return compile(block_source(softmax_patterns()[1].route, kMaskEachExpert, seed));
}

/// A model whose own method reaches the decoder; the encoder is for the host to call.
jit::Module wrapper() {
  return compile({.type = "Wrapper",
                  .modules = {{"encoder", stacked({block(7), block(8)})}, {"decoder", stacked({block(9)})}},
                  .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.decoder.forward(x)
)"});
}

std::vector<std::string> names(const std::vector<EntryMethod>& entries) {
  std::vector<std::string> result;
  for (const auto& entry : entries) result.push_back(entry.name());
  return result;
}

Instrumented twin_of(const jit::Module& model, const std::vector<std::string>& methods = {}) {
  return instrument(
      model, [](const Discovery&) { return describe_nothing(); }, methods);
}

at::Tensor call_encoder(const jit::Module& model, const at::Tensor& input) {
  return call(model.attr("encoder").toModule(), {input});
}

TEST(EntryMethods, AreWhatNothingElseCalls) {
  EXPECT_EQ(names(entry_methods(wrapper(), {})), (std::vector<std::string>{"forward", "encoder.forward"}));
  EXPECT_EQ(names(entry_methods(wrapper(), {"decoder.forward", "encoder.layers.0.mlp.route"})),
            (std::vector<std::string>{"forward", "encoder.forward", "encoder.layers.0.mlp.route", "decoder.forward"}));
  EXPECT_EQ(names(entry_methods(stacked({block()}), {})), (std::vector<std::string>{"forward"}));
}

TEST(EntryMethods, AreReachedThroughForksAndBranches) {
  const jit::Module model = compile({.type = "Model", .modules = {{"first", block()}, {"second", block(8)}}, .code = R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    future = fork(self.first.forward, x)
    if flag:
        x = self.second.forward(x)
    return x + torch.wait(future)
)"});
  EXPECT_EQ(names(entry_methods(model, {})), (std::vector<std::string>{"forward"}));
}

TEST(EntryMethods, ThatDoNotExistAreRefusedWithWhatIsNear) {
  for (const char* name : {"encode.forward", "encoder.forwrd", "forwar", ""}) {
    try {
      entry_methods(wrapper(), {name});
      FAIL() << name;
    } catch (const MethodError& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find(std::string("\"") + name + "\""), std::string::npos) << what;
      EXPECT_NE(what.find("forward"), std::string::npos) << what;
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    }
  }
}

TEST(SubmoduleMethods, AreInstrumentedUnderTheirPath) {
  const jit::Module model = wrapper();
  const at::Tensor input = random_input();
  const Instrumented twin = twin_of(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 3u);
  EXPECT_TRUE(twin.discovery.skipped.empty());
  EXPECT_EQ(twin.discovery.hooks[0].name, "decoder.layers.0.mlp.gate");
  EXPECT_EQ(twin.discovery.hooks[1].name, "encoder.layers.0.mlp.gate");
  EXPECT_EQ(twin.discovery.hooks[2].name, "encoder.layers.1.mlp.gate");
  EXPECT_EQ(twin.discovery.hooks[2].method, "encoder.forward");
  EXPECT_EQ(twin.discovery.hooks[2].layer, "1");
  EXPECT_TRUE(is_instrumented(twin.module));
  for (int run = 1; run <= 4; ++run) {
    const Recording recording;
    EXPECT_TRUE(at::equal(call_encoder(twin.module, input), call_encoder(model, input)));
    EXPECT_TRUE(at::equal(call(twin.module, {input}), call(model, {input})));
    const auto forwards = recording.forwards();
    ASSERT_EQ(forwards.size(), 2u);
    EXPECT_EQ(forwards[0].method, "encoder.forward");
    ASSERT_EQ(forwards[0].routers.size(), 2u);
    EXPECT_EQ(forwards[0].routers[0].hook, 1);
    EXPECT_TRUE(at::equal(forwards[0].arguments.at(0), input));
    EXPECT_EQ(forwards[1].method, "forward");
    EXPECT_EQ(forwards[1].routers.size(), 1u);
  }
}

// Where only a submodule has routers, only it is rewritten.
TEST(SubmoduleMethods, AreFoundWhereTheModelHasNone) {
  const jit::Module model = compile({.type = "Wrapper", .modules = {{"encoder", stacked({block()})}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return x
)"});
  const Instrumented twin = twin_of(model);
  ASSERT_EQ(twin.discovery.hooks.size(), 1u);
  const Recording recording;
  call(twin.module, {random_input()});
  EXPECT_TRUE(recording.forwards().empty());
  call_encoder(twin.module, random_input());
  EXPECT_EQ(recording.forwards().size(), 1u);
  EXPECT_TRUE(is_instrumented(twin.module));
  EXPECT_THROW(twin_of(twin.module), std::invalid_argument);
}

TEST(SubmoduleMethods, ThatAreReachedAreAddedWhenAskedFor) {
  const jit::Module model = wrapper();
  const at::Tensor input = random_input();
  const Instrumented twin = twin_of(model, {"decoder.forward"});
  ASSERT_EQ(twin.discovery.hooks.size(), 4u);
  EXPECT_EQ(twin.discovery.hooks[3].method, "decoder.forward");
  const Recording recording;
  call(twin.module, {input});
  const jit::Module decoder = twin.module.attr("decoder").toModule();
  EXPECT_TRUE(at::equal(call(decoder, {input}), call(model, {input})));
  const auto forwards = recording.forwards();
  ASSERT_EQ(forwards.size(), 2u);  // the model's forward is one, though it calls the decoder
  EXPECT_EQ(forwards[0].method, "forward");
  EXPECT_EQ(forwards[0].routers.size(), 1u);
  EXPECT_EQ(forwards[1].method, "decoder.forward");
  EXPECT_EQ(forwards[1].routers.size(), 1u);
}

TEST(SubmoduleMethods, OfSharedClassesAreRefused) {
  const jit::Module first = stacked({block()});
  const jit::Module model =
      compile({.type = "Wrapper", .modules = {{"encoder", first}, {"other", another_of(first, 3)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.encoder.forward(x)
)"});
  const Discovery found = discover(model);
  ASSERT_EQ(found.hooks.size(), 1u);
  EXPECT_EQ(found.hooks[0].method, "forward");
  ASSERT_EQ(found.skipped.size(), 1u);
  EXPECT_EQ(found.skipped[0].node, "other.forward");
  EXPECT_NE(found.skipped[0].reason.find("encoder has the same class"), std::string::npos) << found.skipped[0].reason;
  EXPECT_THROW(discover(model, {"encoder.forward"}), MethodError);  // asked for: an error
  const Instrumented twin = twin_of(model);
  const Recording recording;
  call(twin.module.attr("other").toModule(), {random_input()});
  EXPECT_TRUE(recording.forwards().empty());
}

// One module under two names is one module.
TEST(SubmoduleMethods, OfOneModuleWithTwoNamesAreRecorded) {
  const jit::Module encoder = stacked({block()});
  const jit::Module model =
      compile({.type = "Wrapper", .modules = {{"encoder", encoder}, {"same", encoder}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return x
)"});
  const Discovery found = discover(model);
  ASSERT_EQ(found.hooks.size(), 1u);
  EXPECT_EQ(found.hooks[0].method, "encoder.forward");
  EXPECT_TRUE(found.skipped.empty());
}

}  // namespace
}  // namespace moetap::hooks::testing
