// A hook that is handed the wrong tensor must not be proven: the graph of an instrumented model is rewired, or its
// token layout changed, and the proof must say so.
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "hooks/graph/method_graph.h"
#include "hooks/points/router_inputs.h"
#include "plugin/records/model_description_json.h"
#include "plugin/verify/router_proof.h"
#include "plugin/verify/token_proof.h"
#include "verified_models.h"

namespace moetap::plugin {
namespace {

namespace jit = torch::jit;
using Proof = std::map<std::string, Check>;

using namespace hooks::router_inputs;

/// An instrumented model whose hook can be changed before it is proven.
class HookedModel {
 public:
  explicit HookedModel(const jit::Module& module) {
    const auto describe = [&](const hooks::Discovery& discovery) {
      description_ = describe_model(module, discovery, "model.pt", "");
      return to_text(description_);
    };
    instrumented_ = hooks::instrument(module, describe);
    graph_ = jit::toGraphFunction(instrumented_.module.get_method("forward").function()).graph();
    for (jit::Node* node : graph_->nodes()) {
      if (node->kind() == jit::Symbol::fromQualString("moetap::router")) router_ = node;
    }
    EXPECT_NE(router_, nullptr) << "no router was found";
  }

  hooks::HookPoint& hook() { return instrumented_.discovery.hooks.at(0); }
  jit::Graph& graph() { return *graph_; }

  /// The model's value of a name in its source.
  jit::Value* named(const std::string& name) {
    for (jit::Node* node : graph_->nodes()) {
      for (jit::Value* output : node->outputs()) {
        if (output->hasDebugName() && output->debugNameBase() == name) return output;
      }
    }
    ADD_FAILURE() << "no value " << name;
    return nullptr;
  }

  void report(size_t input, const std::function<jit::Value*(jit::Value*)>& instead) {
    jit::WithInsertPoint here(router_);
    router_->replaceInput(input, instead(router_->input(input)));
  }
  void report(size_t input, const std::string& name) {
    report(input, [&](jit::Value*) { return named(name); });
  }

  Proof prove(const at::Tensor& ids, const at::Tensor& mask) {
    register_probe_operator();
    description_.hooks = instrumented_.discovery.hooks;
    const hooks::ProbedModel probed = hooks::insert_probes(instrumented_);
    const auto method = probed.module.get_method("forward");
    const std::vector<c10::IValue> arguments = {ids, mask};
    const TwinRun base = run_twin(method, arguments, 0);
    EXPECT_TRUE(base.ran()) << base.error;
    Proof proof;
    const auto add = [&](const std::vector<Check>& checks) {
      for (const Check& check : checks) proof[check.what] = check;
    };
    add(prove_router(probed.routers.at(0), method, arguments, 0, base));
    add(TokenProver(description_, "forward", method, arguments, 0, base).prove(probed.routers.at(0)));
    return proof;
  }
  Proof prove() {
    const auto ids = at::arange(15, at::kLong).reshape({3, 5});
    return prove(ids, at::tensor({1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0}, at::kLong).reshape({3, 5}));
  }

 private:
  ModelDescription description_;
  hooks::Instrumented instrumented_;
  std::shared_ptr<jit::Graph> graph_;
  jit::Node* router_ = nullptr;
};

struct Style {
  const char* name;
  const char* block;
};
void PrintTo(const Style& style, std::ostream* stream) {
  *stream << style.name;
}

class Mutations : public testing::TestWithParam<Style> {
 protected:
  HookedModel model_{verified_model(GetParam().block)};
  HookedModel with_attention_{verified_model(GetParam().block, /*attention=*/true)};
};

INSTANTIATE_TEST_SUITE_P(Styles, Mutations,
                         testing::Values(Style{"Slots", kSlots}, Style{"Dense", kDense}, Style{"TopOne", kTopOne}),
                         [](const auto& info) { return info.param.name; });

Verdict verdict(const Proof& proof, const char* what) {
  return proof.at(what).verdict;
}

void expect_refuted(const Proof& proof, const char* what) {
  EXPECT_EQ(proof.at(what).verdict, Verdict::kRefuted) << what << ": " << proof.at(what).why;
}

TEST_P(Mutations, TheRightHookIsProven) {
  for (const auto& [what, check] : model_.prove())
    EXPECT_EQ(check.verdict, Verdict::kProven) << what << ": " << check.why;
  for (const auto& [what, check] : with_attention_.prove()) {
    if (what == "positions") continue;  // the average mixes them
    EXPECT_EQ(check.verdict, Verdict::kProven) << what << ": " << check.why;
  }
}

TEST_P(Mutations, LogitsOfOtherExpertsAreRefuted) {
  model_.report(kLogits, [&](jit::Value* logits) {
    return model_.graph().insert(jit::Symbol::fromQualString("aten::flip"), {logits, std::vector<int64_t>{-1}});
  });
  expect_refuted(model_.prove(), "logits");
}

TEST_P(Mutations, LogitsThatAreACopyAreNotRefuted) {
  model_.report(kLogits, [&](jit::Value* logits) { return model_.graph().insert(jit::aten::mul, {logits, 1.0}); });
  EXPECT_EQ(verdict(model_.prove(), "logits"), Verdict::kNotShown);
}

TEST_P(Mutations, RowsOfANeighbourAreRefuted) {
  const auto rolled = [](HookedModel& model) {
    return [&model](jit::Value* value) {
      return model.graph().insert(jit::Symbol::fromQualString("aten::roll"),
                                  {value, std::vector<int64_t>{1}, std::vector<int64_t>{0}});
    };
  };
  HookedModel ids{verified_model(GetParam().block)}, weights{verified_model(GetParam().block)};
  model_.report(kLogits, rolled(model_));
  ids.report(kSelected, rolled(ids));
  weights.report(kWeights, rolled(weights));
  expect_refuted(model_.prove(), "logits");
  expect_refuted(ids.prove(), "logits");  // whose ids are another token's
  expect_refuted(weights.prove(), "weights");
}

TEST_P(Mutations, WeightsBeforeAFactorAreRefuted) {
  const bool dense = std::string(GetParam().name) == "Dense";
  model_.report(kWeights, dense ? "spread" : std::string(GetParam().name) == "Slots" ? "normalised" : "unscaled");
  expect_refuted(model_.prove(), "factor");
}

TEST_P(Mutations, RowsOfShiftedSamplesAndExchangedDimensionsAreRefuted) {
  // The layout says that the positions come first.
  auto& dims = model_.hook().tokens.dims;
  ASSERT_EQ(dims.size(), 2u);
  std::swap(dims[0], dims[1]);
  const Proof proof = model_.prove();
  expect_refuted(proof, "samples");
  expect_refuted(proof, "positions");
}

TEST_P(Mutations, AnUnknownLayoutIsNotProven) {
  model_.hook().tokens = {};
  const auto ids = at::arange(15, at::kLong).reshape({3, 5}), none = at::ones({3, 5}, at::kLong);
  model_.hook().component = "vision_tower";  // no text shows the rows either
  const Proof proof = model_.prove(ids, none);
  EXPECT_EQ(verdict(proof, "samples"), Verdict::kNotShown);
  EXPECT_EQ(proof.at("samples").why, "samples of its rows are not known");
  EXPECT_EQ(verdict(proof, "padding"), Verdict::kNotShown);
}

TEST_P(Mutations, AMaskThatIsReadTheWrongWayRoundIsRefuted) {
  auto& masks = with_attention_.hook().tokens.masks;
  ASSERT_EQ(masks.size(), 1u);
  masks[0].means = hooks::MaskMeans::kPadding;
  expect_refuted(with_attention_.prove(), "padding");
}

TEST(SlotMutations, WeightsThatAreNormalisedLaterAreRefuted) {
  HookedModel model{verified_model(kSlots)};
  model.report(kWeights, "unscaled");
  expect_refuted(model.prove(), "weights");
}

TEST(SlotMutations, ASlotShortIsRefuted) {
  HookedModel model{verified_model(kSlots)};
  const auto first = [&](jit::Value* value) {
    return model.graph().insert(jit::aten::slice, {value, int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{1}});
  };
  model.report(kSelected, first);
  model.report(kWeights, first);
  const Proof proof = model.prove();
  expect_refuted(proof, "ids");
  expect_refuted(proof, "weights");
}

/// kSlots with another pick, which the output does not depend on.
std::string with_another_pick(const std::string& from) {
  std::string block = kSlots;
  block.insert(block.find("        unscaled, ids"), "        other, same = torch.topk(" + from + ", 2, -1)\n");
  return block + "        out = out + 0.0 * torch.sum(same).to(h.dtype)\n";
}

// Another pick, of another tensor of the same order, holds the ids that the experts get.
TEST(SlotMutations, IdsOfAPickOfTheSameNumbersAreNotRefuted) {
  for (const char* from : {"total", "torch.sigmoid(total)", "torch.softmax(total * 2.0, -1).double()"}) {
    HookedModel model{verified_model(with_another_pick(from))};
    model.report(kSelected, "same");
    const Proof proof = model.prove();
    EXPECT_EQ(verdict(proof, "ids"), Verdict::kProven) << from << ": " << proof.at("ids").why;
  }
  HookedModel model{verified_model(with_another_pick("plain"))};
  model.report(kSelected, "same");
  expect_refuted(model.prove(), "logits");
}

/// kSlots with something else in the place of `from`.
std::string slots_with(const std::string& from, const std::string& instead) {
  std::string block = kSlots;
  const size_t place = block.find(from);
  EXPECT_NE(place, std::string::npos);
  return place == std::string::npos ? block : block.replace(place, from.size(), instead);
}

// Ids that the model puts into another order behind the pick, reported as the pick gave them; or weights.
TEST(SlotMutations, IdsBesideWeightsOfOtherSlotsAreRefuted) {
  for (const char* order : {"torch.flip(picked, [1])", "torch.roll(picked, [1], [-1])", "picked[:, [1, 0]]",
                            "torch.stack([picked[:, 1], picked[:, 0]], 1)"}) {
    const std::string block = slots_with("unscaled, ids = torch.topk(torch.softmax(total, -1), 2, -1)",
                                         "unscaled, picked = torch.topk(torch.softmax(total, -1), 2, -1)\n"
                                         "        ids = " +
                                             std::string(order));
    HookedModel right{verified_model(block)}, wrong{verified_model(block)};
    const Proof proof = right.prove();
    for (const char* what : {"ids", "weights"}) {
      EXPECT_EQ(verdict(proof, what), Verdict::kProven) << order << ": " << what << ": " << proof.at(what).why;
    }
    wrong.report(kSelected, "picked");
    const Proof of_wrong = wrong.prove();
    expect_refuted(of_wrong, "ids");
    expect_refuted(of_wrong, "weights");
  }
  HookedModel model{verified_model(slots_with("weights = normalised * 2.5", "weights = normalised.flip(1) * 2.5"))};
  EXPECT_EQ(verdict(model.prove(), "ids"), Verdict::kProven);
  model.report(kWeights, "normalised");
  expect_refuted(model.prove(), "ids");
}

// What the experts gave is weighted by another slot's weight, or another token's.
TEST(SlotMutations, OutputsOfOtherSlotsAreRefuted) {
  for (const char* other : {
           "torch.sum(each.flip(1) * weights.unsqueeze(-1), 1)",
           "each[:, 0] * weights[:, 1].unsqueeze(-1) + each[:, 1] * weights[:, 0].unsqueeze(-1)",
           "torch.sum(torch.roll(each, [1], [0]) * weights.unsqueeze(-1), 1)",
       }) {
    HookedModel model{verified_model(slots_with("torch.sum(each * weights.unsqueeze(-1), 1)", other))};
    const Proof proof = model.prove();
    expect_refuted(proof, "ids");
    expect_refuted(proof, "weights");
  }
}

// Where small weights take their slots out, doubling the weights must not bring these back.
TEST(SlotMutations, WeightsThatDecideWhichSlotsAreUsedAreProven) {
  for (const char* drop :
       {"ids = picked.masked_fill(weights < 0.25, -1)", "ids = picked.masked_fill_(weights < 0.25, -1)"}) {
    HookedModel model{verified_model(R"(
        total = torch.linear(h, self.gate) * 0.2
        weights, picked = torch.topk(torch.softmax(total, -1), 2, -1)
        )" + std::string(drop) + R"(
        out = torch.zeros_like(h)
        for e in range(6):
            share = torch.sum(weights * (ids == e).to(h.dtype), -1, True)
            out = out + share * torch.matmul(h, self.experts[e])
)")};
    const Proof proof = model.prove();
    for (const char* what : {"weights", "factor"}) {
      EXPECT_EQ(verdict(proof, what), Verdict::kProven) << drop << ": " << what << ": " << proof.at(what).why;
    }
  }
}

// What is added to the logits before the selection looks like a bias: the lead of a few does not decide, which proves
// nothing, and refutes nothing.
TEST(SlotMutations, LogitsBeforeAnAddendAreNotProvenByTheirMargin) {
  HookedModel model{verified_model(kSlots)};
  model.report(kLogits, "plain");
  EXPECT_EQ(verdict(model.prove(), "margin"), Verdict::kNotShown);
}

TEST(SlotMutations, AnAddendInThePlaceOfLogitsIsNotProvenByItsMargin) {
  HookedModel model{verified_model(kSlots)};
  model.report(kLogits, "delta");
  EXPECT_EQ(verdict(model.prove(), "margin"), Verdict::kNotShown);
}

// Not visible: a factor of each token, or of all, keeps the order of the experts. The hook's check of itself sees it.
TEST(TopOneMutations, LogitsBeforeATemperatureAreNotSeen) {
  HookedModel model{verified_model(kTopOne)};
  model.report(kLogits, "plain");
  const Proof proof = model.prove();
  EXPECT_EQ(verdict(proof, "logits"), Verdict::kProven);
  EXPECT_EQ(verdict(proof, "margin"), Verdict::kProven);
}

TEST(CapacityMutations, SamplesThatShareCapacityAreNotRefuted) {
  // Another layer behind one whose experts take the first three of their tokens.
  HookedModel model{verified_model(R"(
        first = torch.linear(h, self.lora)
        taken = torch.one_hot(torch.argmax(first, -1), 6)
        kept = (taken * (torch.cumsum(taken, 0) <= 1)).to(h.dtype)
        h = h + torch.einsum("te,td,edf->tf", [kept, h, self.experts])
)" + std::string(kSlots))};
  const Proof proof = model.prove();
  EXPECT_NE(verdict(proof, "samples"), Verdict::kRefuted) << proof.at("samples").why;
  EXPECT_NE(verdict(proof, "positions"), Verdict::kRefuted) << proof.at("positions").why;
}

}  // namespace
}  // namespace moetap::plugin
