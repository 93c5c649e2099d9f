#include "hooks/sites/value_reference.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;
using Kind = ValueReference::Kind;

// A ValueReference of which only some members are said.
struct Reference {
  Kind kind;
  std::string target = {};
  std::string method = {};
  std::optional<int64_t> output = {};
  std::optional<int64_t> argument = {};
  std::string argument_name = {};
  std::optional<int64_t> occurrence = {};
};

// The values of `block` in a model that calls it once.
class References : public ::testing::Test {
 protected:
  References() {
    const jit::Module gate =
        compile({.type = "Gate", .parameters = {{"weight", random_tensor({kExperts, kHidden}, 1)}}, .code = R"(
def forward(self, h: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    logits = torch.linear(h, self.weight)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    return logits, weights, ids
)"});
    const jit::Module experts = compile({.type = "Experts", .code = R"(
def forward(self, h: Tensor, ids: Tensor, scale: float) -> Tensor:
    return h * scale + ids.sum()
)"});
    const jit::Module block = compile({.type = "Block", .modules = {{"gate", gate}, {"experts", experts}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.relu(x)
    logits, weights, ids = self.gate.forward(h)
    first = self.experts.forward(h, ids, 0.5)
    return self.experts.forward(first, ids, 0.25) + weights.sum() + logits.sum()
)"});
    graph_ = std::make_unique<MethodGraph>(compile({.type = "Model", .modules = {{"block", block}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.sigmoid(self.block.forward(torch.tanh(x)))
)"}),
                                           "forward", "", CallsOfModules::kKept);
  }

  jit::Value* value(const Reference& reference) const {
    const auto& [kind, target, method, output, argument, argument_name, occurrence] = reference;
    return resolve({kind, target, method, output, argument, argument_name, occurrence}, *graph_, graph_->calls().at(1),
                   "here");
  }
  std::string error(const Reference& reference) const {
    try {
      value(reference);
    } catch (const HookSpecError& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with("here: ")) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "it names a value";
    return "";
  }
  jit::Node* node(const char* kind) const { return node_of_kind(*graph_, kind); }

  std::unique_ptr<MethodGraph> graph_;
};

void expect_holds(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << "\nin: " << text;
}

TEST_F(References, NameOutputsOfCalls) {
  EXPECT_EQ(value({.kind = Kind::kOutputOf, .target = "gate", .output = 0}), node("aten::linear")->output());
  EXPECT_EQ(value({.kind = Kind::kOutputOf, .target = "g.*", .output = 2}), node("aten::topk")->output(1));
  EXPECT_EQ(value({.kind = Kind::kOutputOf, .target = ""}), node("aten::sigmoid")->input(0)) << "the block itself";
  expect_holds(error({.kind = Kind::kOutputOf, .target = "gaet"}),
               {"block makes no call of \"gaet\"", "the nearest that it calls: gate, experts"});
  expect_holds(error({.kind = Kind::kOutputOf, .target = "gate", .method = "route"}),
               {"makes no call of \"gate\" by method route"});
  expect_holds(error({.kind = Kind::kOutputOf, .target = "gate"}),
               {"say which by \"output\"", "forward(h) -> 3 outputs"});
  expect_holds(error({.kind = Kind::kOutputOf, .target = "gate", .output = 3}), {"output 3 does not exist"});
  expect_holds(error({.kind = Kind::kOutputOf, .target = "(gate"}), {"\"(gate\" is no regular expression"});
}

TEST_F(References, NameInputsOfCalls) {
  jit::Value* ids = node("aten::topk")->output(1);
  const Reference by_name{.kind = Kind::kInputOf, .target = "experts", .argument_name = "ids", .occurrence = 0};
  EXPECT_EQ(value(by_name), ids);
  EXPECT_EQ(value({.kind = Kind::kInputOf, .target = "experts", .argument = 1, .occurrence = -1}), ids);
  EXPECT_EQ(value({.kind = Kind::kInputOf, .target = "gate"}), node("aten::relu")->output()) << "it has one";
  expect_holds(error({.kind = Kind::kInputOf, .target = "experts", .argument_name = "ids"}),
               {"there are 2, say which by \"occurrence\"", "experts.forward(h, ids, scale)"});
  Reference wrong = by_name;
  wrong.argument_name = "idx";
  expect_holds(error(wrong), {"there is no argument \"idx\"", "forward(h, ids, scale)"});
  expect_holds(error({.kind = Kind::kInputOf, .target = "experts", .argument = 3, .occurrence = 0}),
               {"there is no argument 3"});
  wrong.argument_name = "scale";
  expect_holds(error(wrong), {"it must be a tensor, got float"});
}

TEST_F(References, NameOperators) {
  EXPECT_EQ(value({.kind = Kind::kOperator, .target = "topk", .output = 1}), node("aten::topk")->output(1));
  EXPECT_EQ(value({.kind = Kind::kOperator, .target = "aten::topk", .argument_name = "self"}),
            node("aten::softmax")->output());
  EXPECT_EQ(value({.kind = Kind::kOperator, .target = "aten::topk", .argument = 0}), node("aten::softmax")->output());
  expect_holds(error({.kind = Kind::kOperator, .target = "aten::top"}),
               {"there is no aten::top in block", "aten::topk (1)"});
  expect_holds(error({.kind = Kind::kOperator, .target = "topk"}), {"it must be one of the 2 outputs", "aten::topk"});
  expect_holds(error({.kind = Kind::kOperator, .target = "topk", .output = 0, .occurrence = 1}),
               {"occurrence 1 does not exist, there are 1"});
  expect_holds(error({.kind = Kind::kOperator, .target = "tanh"}), {"there is no aten::tanh in block"});
}

TEST_F(References, NameVariables) {
  EXPECT_EQ(value({.kind = Kind::kVariable, .target = "logits"}), node("aten::linear")->output());
  EXPECT_EQ(value({.kind = Kind::kVariable, .target = "first"})->node()->kind(), jit::aten::add);
  expect_holds(error({.kind = Kind::kVariable, .target = "id"}), {"no variable \"id\" in block", "ids"});
}

TEST(CheckedRegex, NamesWhatIsNone) {
  EXPECT_TRUE(std::regex_match("layers.7", checked_regex(R"(layers\.\d+)", "here")));
  EXPECT_THROW(checked_regex("(", "here"), HookSpecError);
}

}  // namespace
}  // namespace moetap::hooks::testing
