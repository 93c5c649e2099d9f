#include "hooks/graph/in_place_writes.h"

#include <gtest/gtest.h>

#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

class Writes : public ::testing::Test {
 protected:
  void read(const std::string& code) {
    const jit::Module model = compile({.type = "Model", .code = code});
    graph_ = std::make_unique<MethodGraph>(model, "forward");
    writes_ = std::make_unique<InPlaceWrites>(*graph_);
  }
  jit::Value* value(const std::string& name) const { return value_named(*graph_, name); }
  std::string ready_after(std::initializer_list<const char*> names) const {
    std::vector<jit::Value*> values;
    for (const char* name : names) values.push_back(value(name));
    const jit::Node* node = writes_->ready_after(values);
    return node == nullptr ? "nowhere" : node->kind().toQualString();
  }

  std::unique_ptr<MethodGraph> graph_;
  std::unique_ptr<InPlaceWrites> writes_;
};

TEST_F(Writes, AreWaitedForUntilTheValueIsApplied) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    values, ids = torch.topk(x, 2, -1)
    total = values.sum(-1, keepdim=True)
    scaled = values.view(-1).div_(2.0)
    out = x * values.sum()
    applied = values * x[:, :2]
    later = values.zero_()
    return out + applied + later
)");
  EXPECT_EQ(ready_after({"ids", "values"}), "aten::div_") << "a sum only looks at it, a product applies it";
  EXPECT_EQ(ready_after({"ids"}), "aten::topk");
  EXPECT_EQ(ready_after({"values", "out"}), "aten::mul");
}

TEST_F(Writes, OfWhatIsComputedFromTheValueItselfAreWaitedFor) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    values, ids = torch.topk(x, 2, -1)
    ids[:, 1] = (ids[:, 0] + 1) % 4
    values.copy_(values * values)
    values[values < 0.1] = 0.0
    return values * ids
)");
  EXPECT_EQ(ready_after({"ids"}), "aten::copy_");
  EXPECT_EQ(ready_after({"values"}), "aten::index_put_");
}

// A shared expert's id over the last slot: scores were gathered by the ids before, experts get those that are there
// then.
TEST_F(Writes, OverIdsThatScoresWereGatheredByAreWaitedFor) {
  read(R"(
def forward(self, x: Tensor, bank: Tensor) -> Tensor:
    values, ids = torch.topk(x, 2, -1)
    weights = torch.gather(x, -1, ids)
    ids[:, 1] = torch.zeros_like(ids[:, 0])
    chosen = bank[ids]
    return chosen * weights.unsqueeze(-1)
)");
  EXPECT_EQ(ready_after({"ids"}), "aten::copy_");
  EXPECT_TRUE(writes_->is_as_read(value("ids"), value("chosen")->node()));
}

TEST_F(Writes, OfWhatIsAlsoUsedElsewhereComeTooLate) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    values = torch.sigmoid(x)
    twice = values * 2.0
    values.copy_(twice)
    return twice + values
)");
  EXPECT_EQ(ready_after({"values"}), "aten::sigmoid");
}

TEST_F(Writes, InABranchAreDoneBehindIt) {
  read(R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    values = torch.sigmoid(x)
    if flag:
        values.mul_(2.0)
    return values * x
)");
  EXPECT_EQ(ready_after({"values"}), "prim::If");
}

TEST_F(Writes, KnowNoPlaceForValuesOfTwoArms) {
  read(R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    if flag:
        first = torch.sigmoid(x)
        y = first + 1
    else:
        second = torch.relu(x)
        y = second - 1
    return y
)");
  EXPECT_EQ(ready_after({"first", "second"}), "nowhere");
  EXPECT_EQ(ready_after({"first", "x"}), "aten::sigmoid");
}

TEST_F(Writes, MakeACopyOfWhatIsChanged) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    logits = torch.sigmoid(x)
    kept = torch.relu(x)
    view = logits.view(-1)
    changed = view.mul_(0.0)
    last = changed + kept.sum()
    return last
)");
  const jit::Node* until = value("last")->node();
  EXPECT_EQ(writes_->as_read(nullptr, until), nullptr);
  EXPECT_EQ(writes_->as_read(value("kept"), until), value("kept"));
  EXPECT_EQ(writes_->as_read(value("logits"), value("view")->node()), value("logits")) << "not yet changed";
  jit::Value* logits = value("logits");
  jit::Value* copy = writes_->as_read(logits, until);
  ASSERT_NE(copy, logits);
  EXPECT_EQ(copy->node()->kind(), jit::aten::clone);
  EXPECT_EQ(copy->node()->input(0), logits);
  EXPECT_TRUE(copy->node()->isBefore(value("view")->node())) << "the copy is made before the change";
}

TEST_F(Writes, CountUntilTheValueIsRead) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    logits = torch.relu(x)
    masked = logits[:, 1].fill_(-1.0)
    scores = torch.softmax(logits, -1)
    ids = torch.argmax(scores, -1)
    cleared = logits[:, 0].zero_()
    scores.mul_(2.0)
    return scores[ids] + cleared.sum() + masked.sum()
)");
  const jit::Node* until = value("cleared")->node();
  jit::Value* logits = writes_->as_read(value("logits"), until);
  ASSERT_EQ(logits->node()->kind(), jit::aten::clone);
  EXPECT_TRUE(value("masked")->node()->isBefore(logits->node())) << "the softmax reads what was written before it";
  EXPECT_TRUE(logits->node()->isBefore(value("scores")->node())) << "and not what was written behind it";
  EXPECT_EQ(writes_->as_read(value("ids"), until), value("ids"));
  EXPECT_EQ(writes_->as_read(value("scores"), until), value("scores")) << "it is changed behind that place";
}

TEST_F(Writes, OfWhatIsComputedFromTheValueItselfAreNoReading) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    logits = torch.relu(x)
    logits[:, 1] = logits[:, 0] * 0.5
    logits[:, 2] = logits[:, 1].neg() + logits[:, 0]
    scores = torch.softmax(logits, -1)
    last = scores + 1
    return last
)");
  EXPECT_EQ(writes_->as_read(value("logits"), value("last")->node()), value("logits"));
}

TEST_F(Writes, OfWhatAPickGaveComeAfterItsReading) {
  read(R"(
def forward(self, x: Tensor) -> Tensor:
    logits = torch.relu(x)
    least = torch.topk(logits, 2, -1)[0][:, -1]
    logits[:, 1] = least
    last = torch.softmax(logits, -1)
    return last
)");
  EXPECT_EQ(writes_->as_read(value("logits"), value("last")->node())->node()->kind(), jit::aten::clone);
}

}  // namespace
}  // namespace moetap::hooks::testing
