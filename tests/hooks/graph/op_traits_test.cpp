#include "hooks/graph/op_traits.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/irparser.h>

namespace moetap::hooks {
namespace {

namespace jit = torch::jit;

// The traits of the one node in a graph over x, y and z, where `node` is what follows "= ".
class OpTraits : public ::testing::Test {
 protected:
  const jit::Node& node(const std::string& outputs, const std::string& node) {
    graph_ = std::make_shared<jit::Graph>();
    jit::parseIR("graph(%x : Tensor, %y : Tensor, %z : Tensor, %k : int, %list : Tensor[], %o : Tensor?):\n  " +
                     outputs + " = " + node + "\n  return (%x)\n",
                 graph_.get());
    return **graph_->nodes().begin();
  }
  OpKind kind(const std::string& text, const std::string& outputs = "%a : Tensor") {
    return op_kind(node(outputs, text));
  }

  std::shared_ptr<jit::Graph> graph_;
};

TEST_F(OpTraits, KnowWhatAnOperatorDoes) {
  EXPECT_EQ(kind("aten::linear(%x, %y, %z)"), OpKind::kContract);
  EXPECT_EQ(kind("aten::mul(%x, %y)"), OpKind::kMultiply);
  EXPECT_EQ(kind("aten::topk(%x, %k)", "%a : Tensor, %b : Tensor"), OpKind::kPick);
  EXPECT_EQ(kind("aten::no_such_operator(%x)"), OpKind::kOther);
}

TEST_F(OpTraits, IncludeOtherNameSpacesOfTensorOperatorsOnly) {
  EXPECT_EQ(kind("quantized::linear(%x, %y)"), OpKind::kContract);
  EXPECT_EQ(kind("prim::unchecked_cast(%o)"), OpKind::kCopy);
  EXPECT_EQ(kind("mylibrary::linear(%x, %y)"), OpKind::kOther);
}

// One name, several overloads: what they do is told by their inputs and outputs.
TEST_F(OpTraits, TellOverloadsApart) {
  EXPECT_EQ(kind("aten::max(%x)"), OpKind::kReduce);
  EXPECT_EQ(kind("aten::max(%x, %y)"), OpKind::kElementwise);
  EXPECT_EQ(kind("aten::max(%x, %k)", "%a : Tensor, %b : Tensor"), OpKind::kPick);
  EXPECT_EQ(kind("aten::argmax(%x, %k)"), OpKind::kPick);
  EXPECT_EQ(kind("aten::where(%x)", "%a : Tensor[]"), OpKind::kNonzero);
  EXPECT_EQ(kind("aten::where(%x, %y, %z)"), OpKind::kWhere);
}

TEST_F(OpTraits, SeeInPlaceOperators) {
  const jit::Node& divided = node("%a : Tensor", "aten::div_(%x, %y)");
  EXPECT_TRUE(is_in_place(divided));
  EXPECT_EQ(base_name(divided), "div");
  EXPECT_EQ(op_kind(divided), OpKind::kElementwise);
  const jit::Node& logical = node("%a : Tensor", "aten::__and__(%x, %y)");
  EXPECT_FALSE(is_in_place(logical));
  EXPECT_EQ(base_name(logical), "__and__");
  EXPECT_EQ(op_kind(logical), OpKind::kLogical);
}

TEST_F(OpTraits, TellWhatMayShareMemory) {
  EXPECT_TRUE(may_be_view(node("%a : Tensor", "aten::select(%x, %k, %k)")));
  EXPECT_TRUE(may_be_view(node("%a : Tensor", "aten::expand_as(%x, %y)")));
  EXPECT_TRUE(may_be_view(node("%a : Tensor", "aten::contiguous(%x, %k)")));
  EXPECT_FALSE(may_be_view(node("%a : Tensor", "aten::relu(%x)")));
  EXPECT_FALSE(may_be_view(node("%a : Tensor", "aten::squeeze_(%x)"))) << "its result is its input";
}

TEST_F(OpTraits, SeeMasksBehindCopies) {
  graph_ = std::make_shared<jit::Graph>();
  jit::parseIR(R"(graph(%x : Tensor, %y : Tensor, %k : int):
  %equal : Tensor = aten::eq(%x, %y)
  %mask : Tensor = aten::unsqueeze(%equal, %k)
  %sum : Tensor = aten::add(%mask, %y, %k)
  return (%mask, %sum)
)",
               graph_.get());
  EXPECT_TRUE(is_made_by_comparison(graph_->outputs()[0]));
  EXPECT_FALSE(is_made_by_comparison(graph_->outputs()[1]));
}

TEST_F(OpTraits, TensorsAreNoListsAndNotOptional) {
  node("%a : Tensor", "aten::relu(%x)");
  const auto inputs = graph_->inputs();
  EXPECT_TRUE(is_tensor(inputs[0]));
  EXPECT_FALSE(is_tensor(inputs[3])) << "an int";
  EXPECT_FALSE(is_tensor(inputs[4])) << "a list";
  EXPECT_FALSE(is_tensor(inputs[5])) << "an optional tensor";
}

}  // namespace
}  // namespace moetap::hooks
