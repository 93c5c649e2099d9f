#include "hooks/routers/insert_router.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

// Inserts the operator for values that are named by hand; the first argument stands for the handle.
class InsertRouter : public ::testing::Test {
 protected:
  void read(const std::string& code) {
    const jit::Module model = compile({.type = "Model", .code = code});
    graph_ = std::make_unique<MethodGraph>(model, "forward");
    router_ = FoundRouter();
    router_.form = "slots";
  }
  jit::Value* value(const std::string& name) const { return value_named(*graph_, name); }

  // The operator's node.
  jit::Node* insert() {
    const InPlaceWrites writes(*graph_);
    ForwardHandle handle(*graph_, graph_->graph()->inputs()[1]);
    HookPoint hook;
    hook.id = 7;
    hook.name = "layers.0.gate";
    insert_router(router_, hook, writes, handle);
    graph_->graph()->lint();
    return inserted(graph_->graph()->block());
  }

  static jit::Node* inserted(jit::Block* block) {
    for (jit::Node* node : block->nodes()) {
      if (std::string(node->kind().toQualString()) == "moetap::router") return node;
      for (jit::Block* nested : node->blocks()) {
        if (jit::Node* found = inserted(nested)) return found;
      }
    }
    return nullptr;
  }

  std::unique_ptr<MethodGraph> graph_;
  FoundRouter router_;
};

TEST_F(InsertRouter, StandsBehindAllValues) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    values, ids = torch.topk(x, 2, -1)
    scores = torch.softmax(x, -1)
    last = torch.relu(values)
    return last + scores.sum()
)");
  router_.logits = value("x");
  router_.scores = value("scores");
  router_.selected = {value("ids")};
  router_.weights = {value("values")};
  jit::Node* node = insert();
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(node->isAfter(value("scores")->node()));
  EXPECT_TRUE(node->isBefore(value("last")->node()));
  EXPECT_EQ(node->input(0), graph_->graph()->inputs()[1]);
  EXPECT_EQ(graph_->constant_int(node->input(1)), 7);
  EXPECT_EQ(node->input(2), value("x"));
  EXPECT_EQ(node->input(3), value("scores"));
  EXPECT_EQ(node->input(4), value("ids"));
  EXPECT_EQ(node->input(5), value("values"));
  EXPECT_EQ(graph_->constant_int(node->input(6)), -1);
  EXPECT_EQ(graph_->constant(node->input(7))->toStringRef(), "slots");
}

// Tensors with the experts on another axis than the operator is told are permuted for the operator only.
TEST_F(InsertRouter, TurnsAxesAndAddsSlots) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    turned = x.t()
    ids = torch.argmax(turned, 0)
    return ids
)");
  router_.logits = value("turned");
  router_.logits_dim = -2;
  router_.selected = {value("ids")};
  router_.add_slot_dim = true;
  jit::Node* node = insert();
  const jit::Node* moved = node->input(2)->node();
  EXPECT_EQ(moved->kind(), jit::aten::movedim);
  EXPECT_EQ(graph_->constant_int(moved->input(1)), -2);
  EXPECT_EQ(graph_->constant_int(moved->input(2)), -1);
  const jit::Node* slots = node->input(4)->node();
  EXPECT_EQ(slots->kind(), jit::aten::unsqueeze);
  EXPECT_EQ(slots->input(0), value("ids"));
  EXPECT_TRUE(node->input(3)->mustBeNone()) << "there are no scores";
  EXPECT_TRUE(node->input(5)->mustBeNone()) << "nor weights";
}

TEST_F(InsertRouter, SortsTheWeightsOfAllExperts) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    weights = torch.softmax(x, -1)
    return weights
)");
  router_.weights = {value("weights")};
  router_.selects_all = true;
  router_.form = "dense";
  const jit::Node* sorted = insert()->input(4)->node();
  EXPECT_EQ(sorted->kind(), jit::aten::argsort);
  EXPECT_EQ(sorted->input(0), value("weights"));
}

TEST_F(InsertRouter, LeavesOutWhatItDoesNotSee) {
  read(R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    if flag:
        logits = torch.relu(x)
        ids = torch.argmax(logits, -1)
        y = ids + 1
    else:
        y = torch.argmin(x, -1)
    outside = torch.argmax(y, -1)
    return outside
)");
  router_.logits = value("logits");
  router_.selected = {value("outside")};
  EXPECT_TRUE(insert()->input(2)->mustBeNone());
}

TEST_F(InsertRouter, RefusesIdsAndWeightsOfTwoArmsByName) {
  read(R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    if flag:
        ids = torch.argmax(x, -1)
        y = ids + 1
    else:
        weights = torch.relu(x)
        y = weights - 1
    return y
)");
  router_.selected = {value("ids")};
  router_.weights = {value("weights")};
  try {
    insert();
    FAIL() << "no place sees both";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "router layers.0.gate: its ids and weights are computed in different branches");
  }
}

}  // namespace
}  // namespace moetap::hooks::testing
