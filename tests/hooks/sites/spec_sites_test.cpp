// What hook specs add to discovery, change and leave out, and their errors when they do not fit.
#include "hooks/sites/spec_sites.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/passes/freeze_module.h>

#include "hooks/instrument.h"
#include "tests/hooks/moe_sources.h"
#include "tests/hooks/router_patterns.h"

namespace moetap::hooks::testing {
namespace {

namespace jit = torch::jit;

HookSpecEntry entry(const std::string& module) {
  HookSpecEntry entry;
  entry.module = module;
  return entry;
}

HookSpec spec_of(std::vector<HookSpecEntry> entries) {
  return {"spec.json", std::move(entries)};
}

ValueReference output_of(const std::string& module, std::optional<int64_t> output = std::nullopt) {
  ValueReference reference;
  reference.kind = ValueReference::Kind::kOutputOf;
  reference.target = module;
  reference.output = output;
  return reference;
}

ValueReference input_of(const std::string& module, const std::string& argument) {
  ValueReference reference = output_of(module);
  reference.kind = ValueReference::Kind::kInputOf;
  reference.argument_name = argument;
  return reference;
}

ValueReference op(const std::string& name, std::optional<int64_t> occurrence = std::nullopt) {
  ValueReference reference = output_of(name);
  reference.kind = ValueReference::Kind::kOperator;
  reference.occurrence = occurrence;
  return reference;
}

ValueReference variable(const std::string& name) {
  ValueReference reference = output_of(name);
  reference.kind = ValueReference::Kind::kVariable;
  return reference;
}

std::string error_of(const jit::Module& model, const HookSpec& spec) {
  try {
    discover(model, {}, spec);
  } catch (const HookSpecError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_TRUE(what.starts_with("spec.json: entry ")) << what;
    return what;
  }
  ADD_FAILURE() << "the spec fits";
  return "";
}

void expect_holds(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << "\nin: " << text;
}

Instrumented twin_of(const jit::Module& model, const HookSpec& spec, const std::vector<std::string>& methods = {}) {
  return instrument(
      model, [](const Discovery&) { return describe_nothing(); }, methods, spec);
}

/// Every expert sees every token.
jit::Module dense_mixture(uint64_t seed = 7) {
  const jit::Module gate =
      compile({.type = "Gate", .parameters = {{"weight", random_tensor({kExperts, kHidden}, seed)}}, .code = R"(
def forward(self, h: Tensor) -> Tensor:
    return torch.linear(h, self.weight)
)"});
  return compile({.type = "Dense",
                  .parameters = {{"expert_weights", expert_weights(seed)}},
                  .modules = {{"gate", gate}},
                  .code = R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8]).view(-1, x.size(-1))
    weights = torch.softmax(self.gate.forward(h), -1)
    outputs = torch.einsum("th,ehf->tef", h, self.expert_weights)
    return x + (outputs * weights.unsqueeze(-1)).sum(1).view_as(x)
)"});
}

/// A router as a submodule that returns a tuple, experts as one that takes what it returned.
jit::Module block_of_submodules(uint64_t seed = 7) {
  const jit::Module router =
      compile({.type = "Router", .parameters = {{"weight", random_tensor({kExperts, kHidden}, seed)}}, .code = R"(
def forward(self, h: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    logits = torch.linear(h, self.weight)
    weights, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
    weights /= weights.sum(-1, keepdim=True)
    return logits, weights, ids
)"});
  const jit::Module experts = compile({.type = "Experts",
                                       .parameters = {{"expert_weights", expert_weights(seed)}},
                                       .code = std::string(kIndexParameters.code) + R"(
def forward(self, h: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    return self.experts(h, ids, weights)
)"});
  return compile({.type = "Block", .modules = {{"router", router}, {"experts", experts}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8]).view(-1, x.size(-1))
    logits, weights, ids = self.router.forward(h)
    return x + self.experts.forward(h, ids, weights).view_as(x)
)"});
}

at::Tensor hidden_of(const at::Tensor& input) {
  return at::layer_norm(input, {kHidden}).view({-1, kHidden});
}

/// What the first router of the twin reports, after its outputs were compared with the plain model's four times.
CanonicalReport first_report(const jit::Module& model, const HookSpec& spec) {
  const at::Tensor input = random_input();
  const Instrumented twin = twin_of(model, spec);
  CanonicalReport report;
  for (int run = 1; run <= 4; ++run) {
    const Recording recording;
    EXPECT_TRUE(at::equal(call(twin.module, {input}), call(model, {input}))) << "run " << run;
    const auto forwards = recording.forwards();
    EXPECT_EQ(forwards.size(), 1u);
    if (forwards.empty() || forwards[0].routers.size() != twin.discovery.hooks.size()) {
      ADD_FAILURE() << "not every hook reported";
      return report;
    }
    report = canonical(forwards[0].routers[0], kTokens);
  }
  return report;
}

HookSpecEntry dense_entry() {
  HookSpecEntry dense = entry(R"(layers\.(\d+)\.mlp)");
  dense.logits = output_of("gate");
  dense.scores = op("aten::softmax");
  dense.selects_all = true;
  dense.weights = {op("softmax")};
  return dense;
}

TEST(SpecSites, RecordsADenseMixture) {
  const jit::Module block = dense_mixture();
  const jit::Module model = stacked({block, dense_mixture(8)});
  const Discovery plain = discover(model);
  EXPECT_TRUE(plain.hooks.empty());
  EXPECT_EQ(plain.skipped.size(), 2u);
  const HookSpec spec = spec_of({dense_entry()});
  const Discovery found = discover(model, {}, spec);
  ASSERT_EQ(found.hooks.size(), 2u);
  EXPECT_TRUE(found.skipped.empty());
  EXPECT_EQ(found.hooks[0].name, "layers.0.mlp");
  EXPECT_EQ(found.hooks[1].layer, "1");
  EXPECT_EQ(found.hooks[0].num_experts, kExperts);
  EXPECT_EQ(found.hooks[0].top_k, kExperts);
  EXPECT_EQ(found.hooks[0].scoring, "softmax");

  const CanonicalReport report = first_report(model, spec);
  const at::Tensor logits = at::linear(hidden_of(random_input()), tensor_at(block, "gate.weight"));
  const auto [weights, ids] = logits.softmax(-1).sort(-1, /*descending=*/true);
  EXPECT_TRUE(at::allclose(report.logits, logits, 2e-6, 1e-6));
  EXPECT_TRUE(at::allclose(report.scores, logits.softmax(-1), 2e-6, 1e-6));
  EXPECT_TRUE(at::equal(report.ids, ids));
  EXPECT_TRUE(at::allclose(report.weights, weights, 2e-6, 1e-6));
}

// The router that discovery finds is left out and then named by hand: both report the same.
TEST(SpecSites, NamesValuesBySubmodulesOperatorsAndVariables) {
  const jit::Module block = block_of_submodules();
  const jit::Module model = stacked({block});
  const CanonicalReport found = first_report(model, {});
  HookSpecEntry skip = entry(R"(layers\.0\.mlp\.router)");
  skip.skip = true;
  std::vector<HookSpecEntry> entries(3, entry(R"(layers\.0\.mlp)"));
  entries[0].logits = output_of("router", 0);
  entries[0].weights = {output_of("router", 1)};
  entries[0].selected = {output_of("router", 2)};
  entries[1].logits = op("aten::linear");
  entries[1].selected = {input_of("experts", "ids")};
  entries[1].weights = {input_of("experts", "weights")};
  entries[2].logits = variable("logits");
  entries[2].selected = {op("topk")};
  entries[2].selected[0].output = 1;
  entries[2].weights = {op("aten::div_")};
  for (const HookSpecEntry& named : entries) {
    const HookSpec spec = spec_of({skip, named});
    const Discovery discovery = discover(model, {}, spec);
    ASSERT_EQ(discovery.hooks.size(), 1u);
    EXPECT_EQ(discovery.hooks[0].name, "layers.0.mlp");
    EXPECT_EQ(discovery.hooks[0].num_experts, kExperts);
    const CanonicalReport report = first_report(model, spec);
    EXPECT_TRUE(at::equal(report.logits, found.logits));
    EXPECT_TRUE(at::equal(report.ids, found.ids));
    EXPECT_TRUE(at::equal(report.weights, found.weights));
  }
}

TEST(SpecSites, ChangesOneValueOfWhatWasFound) {
  const jit::Module model = stacked({block_of_submodules()});
  HookSpecEntry other = entry(R"(layers\.0\.mlp\.router)");
  other.weights = {op("topk")};  // before they are normalised
  other.weights[0].output = 0;
  other.scoring = "softmax_raw";
  const HookSpec spec = spec_of({other});
  EXPECT_EQ(discover(model, {}, spec).hooks.at(0).scoring, "softmax_raw");
  EXPECT_EQ(discover(model, {}, spec).hooks.at(0).name, "layers.0.mlp.router");
  const at::Tensor logits = at::linear(hidden_of(random_input()), tensor_at(model, "layers.0.mlp.router.weight"));
  const auto [weights, ids] = logits.softmax(-1).topk(kTopK, -1);
  const CanonicalReport report = first_report(model, spec);
  EXPECT_TRUE(at::equal(report.ids, ids));
  EXPECT_TRUE(at::allclose(report.logits, logits, 2e-6, 1e-6));
  // The division in place changes the tensor that top-k returned: read behind it, it is what the experts get.
  EXPECT_TRUE(at::allclose(report.weights, weights / weights.sum(-1, true), 2e-6, 1e-6));
}

// The operator is given what the pick of named ids reads, unless the router that was found reads another tensor; and
// the rule between weights and scores is taken from the spec where it says one.
TEST(SpecSites, TellsWhatNamedIdsAreTheBestOf) {
  const jit::Module model = stacked(
      {compile({.type = "Block",
                .parameters = {{"weight", random_tensor({kExperts, kHidden}, 7)}, {"expert_weights", expert_weights()}},
                .code = std::string(kIndexParameters.code) + R"(
def forward(self, x: Tensor) -> Tensor:
    h = torch.layer_norm(x, [8]).view(-1, x.size(-1))
    before = torch.linear(h, self.weight)
    logits = before + torch.relu(torch.linear(h, self.weight.flip(0)))
    scores = torch.softmax(logits, -1)
    weights, ids = torch.topk(scores, 2, -1)
    others, other_ids = torch.topk(before, 2, -1)
    shifted = torch.roll(ids, 1, 0)
    neighbours = torch.roll(weights, 1, 0)
    y = self.experts(h, ids, weights) + 0.0 * (others + other_ids + shifted + neighbours).sum()
    return x + y.view_as(x)
)"})});
  const auto reported = [&](const std::string& ids, const std::string& weights, const char* scoring) {
    HookSpecEntry named = entry(R"(layers\.0\.mlp)");
    named.selected = {variable(ids)};
    if (!weights.empty()) named.weights = {variable(weights)};
    if (scoring != nullptr) named.scoring = scoring;
    const HookPoint hook = discover(model, {}, spec_of({named})).hooks.at(0);
    const Instrumented twin = twin_of(model, spec_of({named}));
    const Recording recording;
    call(twin.module, {random_input()});
    return std::pair(recording.forwards().at(0).routers.at(0).choice, hook.weights_are_scaled_scores);
  };
  ASSERT_EQ(discover(model).hooks.size(), 1u);
  EXPECT_TRUE(reported("ids", "", nullptr).first.defined());
  EXPECT_TRUE(reported("ids", "", nullptr).second);
  EXPECT_FALSE(reported("other_ids", "", nullptr).first.defined());
  EXPECT_FALSE(reported("other_ids", "", nullptr).second);
  EXPECT_FALSE(reported("shifted", "", nullptr).first.defined());
  EXPECT_FALSE(reported("ids", "neighbours", nullptr).second);
  EXPECT_FALSE(reported("ids", "neighbours", "other").second);
  EXPECT_TRUE(reported("ids", "neighbours", "softmax").second);
  EXPECT_TRUE(reported("other_ids", "", "softmax").second);
}

TEST(SpecSites, GivesNamesLayersAndComponents) {
  const jit::Module model = stacked({block_of_submodules(), block_of_submodules(8), dense_mixture()});
  HookSpecEntry named = entry(R"(layers\.([01])\.mlp\.router)");
  named.name = "block$1";
  named.layer = "1$1";
  named.component = "audio_tower";
  HookSpecEntry dense = dense_entry();
  dense.module = R"(layers\.2\.mlp)";
  const Discovery found = discover(model, {}, spec_of({named, dense}));
  ASSERT_EQ(found.hooks.size(), 3u);
  EXPECT_EQ(found.hooks[0].name, "block0");
  EXPECT_EQ(found.hooks[1].name, "block1");
  EXPECT_EQ(found.hooks[0].layer, "10");
  EXPECT_EQ(found.hooks[1].layer, "11");
  EXPECT_EQ(found.hooks[0].component, "audio_tower");
  EXPECT_EQ(found.hooks[2].component, "language_model");
  EXPECT_EQ(found.hooks[2].layer, "2");

  named.layer = "007";
  EXPECT_THROW(discover(model, {}, spec_of({named})), HookSpecError);  // both
  named.module = R"(layers\.0\.mlp\.router)";
  named.component = std::nullopt;
  named.name = std::nullopt;
  EXPECT_EQ(discover(model, {}, spec_of({named})).hooks.at(0).layer, "7");
  named.layer = "$1";
  expect_holds(error_of(model, spec_of({named})), {"has no group 1"});
  named.layer = "first";
  expect_holds(error_of(model, spec_of({named})), {"layer must be decimal digits", "\"first\""});
  named.layer = "1";
  EXPECT_EQ(discover(model, {}, spec_of({named})).hooks.at(1).layer, "2");  // its own number is taken
  named.component = "a/b";
  expect_holds(error_of(model, spec_of({named})), {"component", "\"a/b\""});
}

TEST(SpecSites, LeavesOutWhatItIsTold) {
  const jit::Module model = stacked({block_of_submodules(), block_of_submodules(8)});
  HookSpecEntry skip = entry(R"(layers\.0\..*)");
  skip.skip = true;
  const Discovery found = discover(model, {}, spec_of({skip}));
  ASSERT_EQ(found.hooks.size(), 1u);
  EXPECT_EQ(found.hooks[0].name, "layers.1.mlp.router");
  EXPECT_EQ(found.hooks[0].id, 0);
  ASSERT_EQ(found.skipped.size(), 1u);
  EXPECT_EQ(found.skipped[0].reason, "skipped by the hook spec");
  EXPECT_NE(found.skipped[0].node.find("aten::topk"), std::string::npos);
  const Instrumented twin = twin_of(model, spec_of({skip}));
  const Recording recording;
  call(twin.module, {random_input()});
  EXPECT_EQ(recording.forwards().at(0).routers.size(), 1u);
}

TEST(SpecSites, ShowsNearMissesOfModules) {
  const jit::Module model = stacked({block_of_submodules(), dense_mixture()});
  HookSpecEntry missed = dense_entry();
  missed.module = R"(layer\.(\d+)\.mpl)";
  expect_holds(error_of(model, spec_of({missed})), {"entry 0", "layer\\.(\\d+)\\.mpl", "the nearest: layers.0.mlp"});
  missed.module = R"(layers\.(\d+\.mlp)";
  expect_holds(error_of(model, spec_of({missed})), {"no regular expression"});
  HookSpecEntry skip = entry(R"(layers\.1\.mlp)");
  skip.skip = true;
  expect_holds(error_of(model, spec_of({skip})),
               {"matches layers.1.mlp, where no router was found", "layers.0.mlp.router"});
  missed = dense_entry();
  missed.method = "encode";
  expect_holds(error_of(model, spec_of({missed})), {"method \"encode\" is not recorded", "forward"});
  missed = dense_entry();
  missed.module = R"(layers\.1\.mlp)";
  missed.call = 1;
  expect_holds(error_of(model, spec_of({missed})), {"call 1 of layers.1.mlp does not exist", "1 times"});
}

TEST(SpecSites, AsksForWhatARouterNeeds) {
  const jit::Module model = stacked({block_of_submodules()});
  HookSpecEntry wrong = entry(R"(layers\.0\.mlp)");
  HookSpecEntry skip = wrong;
  skip.skip = true;
  wrong.logits = op("aten::linear");
  expect_holds(error_of(model, spec_of({skip, wrong})), {"entry 1", "say what is selected"});
  wrong.logits.reset();
  wrong.selected = {op("aten::topk")};
  expect_holds(error_of(model, spec_of({skip, wrong})),
               {"entry 1: selected in layers.0.mlp", "it must be one of the 2 outputs"});
  wrong.selected[0].output = 1;
  expect_holds(error_of(model, spec_of({skip, wrong})), {"entry 1", "logits, scores or num_experts"});
}

TEST(SpecSites, KeepsLayersOfAnyLength) {
  const jit::Module model = stacked({block_of_submodules(), block_of_submodules(8)});
  HookSpecEntry named = entry(R"(layers\.0\.mlp\.router)");
  named.layer = "000123456789012345678901234567890";
  named.component = "language_model";
  HookSpecEntry other = entry(R"(layers\.1\.mlp\.router)");
  other.name = "shared";
  const Discovery found = discover(model, {}, spec_of({named, other}));
  ASSERT_EQ(found.hooks.size(), 2u);
  EXPECT_EQ(found.hooks[0].layer, "123456789012345678901234567890");
  EXPECT_EQ(found.hooks[1].layer, "123456789012345678901234567891");
}

TEST(SpecSites, WorksInForksAndBranchesAndRefusesWhatIsHidden) {
  const jit::Module block = dense_mixture();
  const jit::Module model =
      compile({.type = "Model", .modules = {{"first", block}, {"second", dense_mixture(9)}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    future = fork(self.first.forward, x)
    if x.size(0) > 1:
        y = self.second.forward(x)
    else:
        y = x
    return y + torch.wait(future)
)"});
  HookSpecEntry dense = dense_entry();
  dense.module = "first|second";
  const HookSpec spec = spec_of({dense});
  const CanonicalReport report = first_report(model, spec);
  EXPECT_EQ(discover(model, {}, spec).hooks.size(), 2u);
  EXPECT_EQ(report.ids.size(1), kExperts);

  const jit::Module hidden = compile({.type = "Model", .modules = {{"gate", block}}, .code = R"(
def forward(self, x: Tensor, flag: bool) -> Tensor:
    if flag:
        ids = torch.argmax(x, -1)
    else:
        ids = torch.argmin(x, -1)
    for i in range(2):
        x = x * torch.softmax(x, -1)
    return x + ids.unsqueeze(-1)
)"});
  HookSpecEntry inside = entry("");
  inside.name = "model";
  inside.logits = op("aten::softmax");
  inside.selected = {op("aten::argmax")};
  expect_holds(error_of(hidden, spec_of({inside})), {"branch, loop or fork", "aten::softmax"});
}

TEST(SpecSites, TellsCallsOfOneModuleApart) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", dense_mixture()}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.block.forward(self.block.forward(x))
)"});
  HookSpecEntry dense = dense_entry();
  dense.module = "block";
  const Discovery both = discover(model, {}, spec_of({dense}));
  ASSERT_EQ(both.hooks.size(), 2u);
  EXPECT_EQ(both.hooks[1].name, "block#1");
  dense.call = -1;
  EXPECT_EQ(discover(model, {}, spec_of({dense})).hooks.size(), 1u);
  const at::Tensor input = random_input();
  const CanonicalReport report = first_report(model, spec_of({dense}));
  const at::Tensor once = call(model.attr("block").toModule(), {input});
  const at::Tensor logits = at::linear(hidden_of(once), tensor_at(model, "block.gate.weight"));
  EXPECT_TRUE(at::allclose(report.logits, logits, 1e-5, 1e-5));
}

TEST(SpecSites, OfAFrozenModelNamesOperators) {
  jit::Module model = stacked({dense_mixture()});
  model.eval();
  const jit::Module frozen = jit::freeze(model);
  HookSpecEntry dense = entry("");
  dense.selects_all = true;
  dense.weights = {op("aten::softmax")};
  expect_holds(error_of(frozen, spec_of({dense})), {"the model itself", "say name"});
  dense.name = "layers.0.mlp";
  dense.layer = "0";
  const HookSpec spec = spec_of({dense});
  EXPECT_EQ(discover(frozen, {}, spec).hooks.at(0).name, "layers.0.mlp");
  EXPECT_EQ(first_report(frozen, spec).ids.size(1), kExperts);
  dense.weights = {output_of("gate")};
  expect_holds(error_of(frozen, spec_of({dense})), {"calls no submodules", "\"op\""});
  dense.module = R"(layers\.0\.mlp)";
  expect_holds(error_of(frozen, spec_of({dense})), {"no submodule is", "frozen"});

  // Hooks that have only their order are matched by it.
  jit::Module found = stacked({block_of_submodules()});
  found.eval();
  HookSpecEntry named = entry(R"(order\.0)");
  named.layer = "4";
  EXPECT_EQ(discover(jit::freeze(found), {}, spec_of({named})).hooks.at(0).layer, "4");
}

TEST(SpecSites, HoldsInEachMethodOrInOne) {
  const jit::Module model = compile({.type = "Model", .modules = {{"block", dense_mixture()}}, .code = R"(
def forward(self, x: Tensor) -> Tensor:
    return self.block.forward(x)

def encode(self, x: Tensor) -> Tensor:
    return self.block.forward(x) + 1
)"});
  HookSpecEntry dense = dense_entry();
  dense.module = "block";
  const Discovery both = discover(model, {}, spec_of({dense}));
  ASSERT_EQ(both.hooks.size(), 2u);
  EXPECT_EQ(both.hooks[1].method, "encode");
  dense.method = "encode";
  const Discovery one = discover(model, {}, spec_of({dense}));
  ASSERT_EQ(one.hooks.size(), 1u);
  EXPECT_EQ(one.hooks[0].method, "encode");
}

// With a spec, graphs keep their calls and are simplified by other passes. Discovery finds the same in them.
class KeptCalls : public ::testing::TestWithParam<RouterPattern> {};

TEST_P(KeptCalls, ChangeNothingElse) {
  const jit::Module model = stacked({compile(GetParam().source())});
  HookSpecEntry renamed = entry(R"(layers\.0\.mlp\.gate)");
  renamed.name = "renamed";
  const Discovery plain = discover(model), kept = discover(model, {}, spec_of({renamed}));
  ASSERT_EQ(kept.hooks.size(), plain.hooks.size());
  ASSERT_EQ(kept.hooks.size(), 1u);
  EXPECT_EQ(kept.hooks[0].name, "renamed");
  EXPECT_EQ(kept.hooks[0].num_experts, plain.hooks[0].num_experts);
  EXPECT_EQ(kept.hooks[0].top_k, plain.hooks[0].top_k);
  EXPECT_EQ(kept.hooks[0].scoring, plain.hooks[0].scoring);
  EXPECT_EQ(kept.skipped.size(), plain.skipped.size());
}

INSTANTIATE_TEST_SUITE_P(SpecSites, KeptCalls, ::testing::ValuesIn(all_patterns()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moetap::hooks::testing
