// The operators as a model's graph calls them, on graphs written by hand.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <unistd.h>

#include <filesystem>
#include <thread>

#include "tests/plugin/support/recorded_run.h"

namespace moetap::plugin {
namespace {

torch::jit::Stack run(torch::jit::GraphFunction& function, torch::jit::Stack stack) {
  function.run(stack);
  return stack;
}

std::unique_ptr<torch::jit::GraphFunction> parse(const std::string& ir) {
  auto graph = std::make_shared<torch::jit::Graph>();
  torch::jit::parseIR(ir, graph.get());
  return std::make_unique<torch::jit::GraphFunction>("forward", graph, nullptr);
}

// A softmax router over x @ w with renormalised top-2 weights; the selected ids and weights are changed in place
// afterwards.
constexpr const char* kRouterGraph = R"IR(
graph(%description : str, %ids : Tensor, %mask : Tensor, %x : Tensor, %w : Tensor):
  %method : str = prim::Constant[value="forward"]()
  %form : str = prim::Constant[value="slots"]()
  %empty : str = prim::Constant[value=""]()
  %none : NoneType = prim::Constant()
  %hook : int = prim::Constant[value=0]()
  %last : int = prim::Constant[value=-1]()
  %two : int = prim::Constant[value=2]()
  %true : bool = prim::Constant[value=1]()
  %arguments : Tensor?[] = prim::ListConstruct(%ids, %mask)
  %forward : Tensor = moetap::begin(%description, %method, %arguments)
  %logits : Tensor = aten::matmul(%x, %w)
  %scores : Tensor = aten::softmax(%logits, %last, %none)
  %weights : Tensor, %selected : Tensor = aten::topk(%scores, %two, %last, %true, %true)
  %selected.list : Tensor[] = prim::ListConstruct(%selected)
  %weights.list : Tensor[] = prim::ListConstruct(%weights)
  moetap::router(%forward, %hook, %logits, %scores, %selected.list, %weights.list, %last, %form, %none, %none, %empty)
  %changed.ids : Tensor = aten::zero_(%selected)
  %changed.mask : Tensor = aten::zero_(%mask)
  %squared : Tensor = aten::mul(%weights, %weights)
  %end : int = moetap::end(%forward)
  moetap::ended(%end)
  return (%squared)
)IR";

struct Inputs {
  at::Tensor ids = at::arange(6, at::kLong).reshape({2, 3}) + 10;
  at::Tensor mask = at::tensor({1, 1, 1, 1, 1, 0}, at::kLong).reshape({2, 3});
  at::Tensor x = at::randn({2, 3, 8});
  at::Tensor w = at::randn({8, 4});

  torch::jit::Stack stack(const std::string& description) const { return {description, ids, mask.clone(), x, w}; }
};

Config everything() {
  Config config;
  config.dump = Dump::kFull;
  return config;
}

TEST(Operators, RecordWhatTheRouterUsed) {
  RecordedRun recorded(everything());
  const auto description = recorded.bind(gates(1));
  const auto function = parse(kRouterGraph);
  const Inputs inputs;
  for (int i = 0; i < 4; ++i) {  // the executor optimises the graph in the first runs
    run(*function, inputs.stack(description));
  }
  const auto& records = recorded.close();
  ASSERT_EQ(records.size(), 4u);
  const auto logits = at::matmul(inputs.x, inputs.w).reshape({6, 4}).narrow(0, 0, 5);  // the last token is padding
  const auto expected = logits.softmax(-1).topk(2, -1);
  for (int64_t i = 0; i < 4; ++i) {
    const auto& record = records[static_cast<size_t>(i)];
    EXPECT_EQ(record.index, i);
    EXPECT_EQ(record.samples, (std::vector<int64_t>{2 * i, 2 * i + 1}));
    EXPECT_GT(record.duration_s, 0);
    ASSERT_EQ(record.routers.size(), 1u);
    const auto& router = record.routers[0];
    EXPECT_TRUE(router.attributed);
    EXPECT_TRUE(router.text);
    EXPECT_TRUE(at::equal(router.selected, std::get<1>(expected)));
    EXPECT_TRUE(at::allclose(router.weights, std::get<0>(expected)));
    EXPECT_TRUE(at::allclose(router.logits, logits));
    EXPECT_TRUE(at::allclose(router.scores, logits.softmax(-1)));
    EXPECT_TRUE(at::equal(router.row, at::tensor({0, 0, 0, 1, 1}, at::kLong)));
    EXPECT_TRUE(at::equal(router.position, at::tensor({0, 1, 2, 0, 1}, at::kInt)));
    EXPECT_TRUE(at::equal(router.token_id, at::tensor({10, 11, 12, 13, 14}, at::kInt)));
    EXPECT_EQ(router.sums.tokens(0), 3);
    EXPECT_EQ(router.sums.tokens(1), 2);
  }
  EXPECT_EQ(recorded.collected->counters.tokens, 20);
}

TEST(Operators, TrainModeKeepsOutputsAndGradients) {
  const auto without = [](std::string ir, std::initializer_list<std::string> lines) {
    for (const auto& line : lines) {
      ir.erase(ir.find(line), line.size());
    }
    return ir;
  };
  // topk saves its ids for the backward pass: nothing may change them here.
  const std::string ir = without(kRouterGraph, {"  %changed.ids : Tensor = aten::zero_(%selected)\n"});
  const auto tapped = parse(ir);
  const auto plain = parse(without(ir, {"  %end : int = moetap::end(%forward)\n", "  moetap::ended(%end)\n",
                                        "  moetap::router(%forward, %hook, %logits, %scores, %selected.list, "
                                        "%weights.list, %last, %form, %none, %none, %empty)\n",
                                        "  %forward : Tensor = moetap::begin(%description, %method, %arguments)\n"}));
  RecordedRun recorded(everything());
  const auto description = recorded.bind(gates(1));
  Inputs inputs;
  const auto gradients = [&](torch::jit::GraphFunction& function) {
    auto x = inputs.x.clone().requires_grad_();
    auto w = inputs.w.clone().requires_grad_();
    const auto out = run(function, {description, inputs.ids, inputs.mask.clone(), x, w})[0].toTensor();
    EXPECT_TRUE(out.requires_grad());
    out.sum().backward();
    return std::vector<at::Tensor>{out.detach(), x.grad(), w.grad()};
  };
  for (int i = 0; i < 4; ++i) {
    const auto expected = gradients(*plain);
    const auto actual = gradients(*tapped);
    for (size_t k = 0; k < expected.size(); ++k) {
      EXPECT_TRUE(at::equal(expected[k], actual[k])) << "run " << i << ", tensor " << k;
    }
  }
  EXPECT_EQ(recorded.close().size(), 4u);
}

TEST(Operators, InferenceModeAndLowPrecision) {
  RecordedRun recorded;
  const auto description = recorded.bind(gates(1));
  const auto function = parse(kRouterGraph);
  {
    const c10::InferenceMode inference;
    const Inputs inputs;
    run(*function, inputs.stack(description));
    run(*function,
        {description, inputs.ids, inputs.mask.clone(), inputs.x.to(at::kBFloat16), inputs.w.to(at::kBFloat16)});
  }
  const auto& records = recorded.close();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].routers.at(0).logits.scalar_type(), at::kBFloat16);
  EXPECT_EQ(records[1].routers.at(0).weights.scalar_type(), at::kFloat);
  EXPECT_EQ(records[0].routers.at(0).logits.size(0), 5);  // the probe: fewer tokens than its 64
  EXPECT_FALSE(records[0].routers.at(0).scores.defined());
}

TEST(Operators, ProbeKeepsTheFirstTokensOnly) {
  Config config;
  config.probe_tokens = 4;
  config.log_per_token = false;
  RecordedRun recorded(config);
  const auto description = recorded.bind(gates(1));
  const auto function = parse(kRouterGraph);
  const Inputs inputs;
  for (int i = 0; i < 2; ++i) {
    run(*function, inputs.stack(description));
    recorded.recording->flush();
  }
  const auto& records = recorded.close();
  EXPECT_TRUE(
      at::allclose(records.at(0).routers[0].logits, at::matmul(inputs.x, inputs.w).reshape({6, 4}).narrow(0, 0, 4)));
  EXPECT_FALSE(records.at(1).routers[0].logits.defined());
  EXPECT_FALSE(records.at(0).routers[0].selected.defined());
}

TEST(Operators, WithoutASessionNothingHappens) {
  const auto function = parse(kRouterGraph);
  const Inputs inputs;
  const auto out = run(*function, inputs.stack(to_text(gates(1))));
  EXPECT_EQ(out[0].toTensor().sizes(), (std::vector<int64_t>{2, 3, 2}));
}

TEST(Operators, SurviveDeadCodeElimination) {
  const auto function = parse(kRouterGraph);
  auto graph = function->graph()->copy();
  torch::jit::EliminateDeadCode(graph);
  int operators = 0;
  for (const auto* node : graph->nodes()) {
    operators += std::string(node->kind().ns().toUnqualString()) == "moetap";
  }
  EXPECT_EQ(operators, 4);
}

TEST(Operators, AForwardThatThrowsIsCountedAndNotRecorded) {
  RecordedRun recorded;
  const auto description = recorded.bind(gates(1));
  std::string ir = kRouterGraph;
  const std::string squared = "aten::mul(%weights, %weights)";
  ir.replace(ir.find(squared), squared.size(), "aten::matmul(%weights, %w)");  // shapes do not fit
  const auto throws = parse(ir);
  const auto works = parse(kRouterGraph);
  const Inputs inputs;
  EXPECT_ANY_THROW(run(*throws, inputs.stack(description)));
  run(*works, inputs.stack(description));
  const auto& records = recorded.close();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].samples, (std::vector<int64_t>{2, 3}));  // the host counts the sample that failed too
  EXPECT_EQ(recorded.collected->counters.aborted, 1);
  EXPECT_EQ(recorded.collected->counters.forwards, 1);
}

constexpr const char* kBadIdsGraph = R"IR(
graph(%description : str, %logits : Tensor, %good : Tensor, %bad : Tensor):
  %method : str = prim::Constant[value="forward"]()
  %form : str = prim::Constant[value="slots"]()
  %empty : str = prim::Constant[value=""]()
  %none : NoneType = prim::Constant()
  %first : int = prim::Constant[value=0]()
  %second : int = prim::Constant[value=1]()
  %last : int = prim::Constant[value=-1]()
  %arguments : Tensor?[] = prim::ListConstruct(%none, %none)
  %forward : Tensor = moetap::begin(%description, %method, %arguments)
  %good.list : Tensor[] = prim::ListConstruct(%good)
  %bad.list : Tensor[] = prim::ListConstruct(%bad)
  %weights : Tensor[] = prim::ListConstruct()
  moetap::router(%forward, %first, %logits, %none, %bad.list, %weights, %last, %form, %none, %none, %empty)
  moetap::router(%forward, %second, %logits, %none, %good.list, %weights, %last, %form, %none, %none, %empty)
  moetap::router(%forward, %second, %logits, %none, %good.list, %weights, %last, %form, %none, %none, %empty)
  %end : int = moetap::end(%forward)
  moetap::ended(%end)
  return (%logits)
)IR";

torch::jit::Stack bad_ids(const std::string& description) {
  return {description, at::randn({3, 4}), at::zeros({3, 2}, at::kLong), at::full({3, 2}, 4, at::kLong)};
}

TEST(Operators, AHookThatFailsStopsAlone) {
  RecordedRun recorded;
  const auto description = recorded.bind(gates(2));
  const auto function = parse(kBadIdsGraph);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) {
    EXPECT_NO_THROW(run(*function, bad_ids(description)));
  }
  const auto& records = recorded.close();
  const std::string said = testing::internal::GetCapturedStderr();
  const std::string stopped =
      "moetap: hook \"layers.0.gate\" failed and records no more: selected must hold experts in [0, 4) or -1, got 4\n";
  EXPECT_EQ(said.find(stopped), 0u) << said;
  EXPECT_EQ(said.rfind(stopped), 0u) << "said once";
  ASSERT_EQ(records.size(), 3u);
  for (const auto& record : records) {
    ASSERT_EQ(record.routers.size(), 2u);  // the other hook, called twice
    EXPECT_EQ(record.routers[0].hook, 1);
    EXPECT_EQ(record.routers[0].call, 0);
    EXPECT_EQ(record.routers[1].call, 1);
    EXPECT_EQ(record.samples.size(), 1u);
  }
  EXPECT_EQ(recorded.collected->counters.failed_hooks, 1);
}

TEST(Operators, StrictThrowsIntoTheForward) {
  Config config;
  config.strict = true;
  RecordedRun recorded(config);
  const auto description = recorded.bind(gates(2));
  const auto function = parse(kBadIdsGraph);
  EXPECT_ANY_THROW(run(*function, bad_ids(description)));
  EXPECT_TRUE(recorded.close().empty());
  EXPECT_EQ(recorded.collected->counters.aborted, 1);
}

TEST(Operators, ReportFromSeveralThreads) {
  // What prim::fork does: the operators of one forward on threads of the pool, with the handle as argument.
  RecordedRun recorded;
  const auto description = recorded.bind(gates(8));
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto begin = dispatcher.findSchemaOrThrow("moetap::begin", "");
  const auto router = dispatcher.findSchemaOrThrow("moetap::router", "");
  const auto end = dispatcher.findSchemaOrThrow("moetap::end", "");
  for (int round = 0; round < 20; ++round) {
    torch::jit::Stack stack{description, std::string("forward"), c10::List<std::optional<at::Tensor>>()};
    begin.callBoxed(&stack);
    const auto handle = stack.at(0).toTensor();
    std::vector<std::thread> threads;
    for (int64_t hook = 0; hook < 8; ++hook) {
      threads.emplace_back([&, hook] {
        torch::jit::Stack arguments{handle,
                                    hook,
                                    at::full({5, 4}, static_cast<double>(hook)),
                                    c10::IValue(),
                                    c10::List<at::Tensor>({at::full({5, 1}, hook % 4, at::kLong)}),
                                    c10::List<at::Tensor>(),
                                    -1,
                                    std::string("slots"),
                                    c10::IValue(),
                                    c10::IValue(),
                                    std::string()};
        router.callBoxed(&arguments);
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    torch::jit::Stack last{handle};
    end.callBoxed(&last);
  }
  const auto& records = recorded.close();
  ASSERT_EQ(records.size(), 20u);
  for (const auto& record : records) {
    ASSERT_EQ(record.routers.size(), 8u);
    for (int64_t hook = 0; hook < 8; ++hook) {
      const auto& reported = record.routers[static_cast<size_t>(hook)];
      EXPECT_EQ(reported.hook, hook);
      EXPECT_TRUE(at::equal(reported.selected, at::full({5, 1}, hook % 4, at::kLong)));
    }
    EXPECT_EQ(record.transitions.size(), 7u);
    EXPECT_EQ(record.transitions[0].sums.counts[0][1].item<int64_t>(), 5);
  }
}

TEST(Operators, LogTakesNumbersBoolsAndTensors) {
  const auto outside = parse(R"IR(
graph(%mean : Tensor, %count : int, %on : bool, %ratio : float):
  %name : str = prim::Constant[value="x"]()
  moetap::log(%name, %mean)
  moetap::log(%name, %count)
  moetap::log(%name, %on)
  moetap::log(%name, %ratio)
  return (%mean)
)IR");
  EXPECT_EQ(run(*outside, {at::ones({2}), 3, true, 0.5}).size(), 1u);

  RecordedRun recorded;
  const auto description = recorded.bind(gates(1));
  const auto function = parse(R"IR(
graph(%description : str, %mean : Tensor, %vector : Tensor, %count : int, %on : bool, %ratio : float):
  %method : str = prim::Constant[value="forward"]()
  %none : NoneType = prim::Constant()
  %arguments : Tensor?[] = prim::ListConstruct(%none)
  %component : str = prim::Constant[value="language_model"]()
  %layer : str = prim::Constant[value="3"]()
  %a : str = prim::Constant[value="mean"]()
  %b : str = prim::Constant[value="vector"]()
  %c : str = prim::Constant[value="count"]()
  %d : str = prim::Constant[value="on"]()
  %e : str = prim::Constant[value="ratio"]()
  %forward : Tensor = moetap::begin(%description, %method, %arguments)
  moetap::log_in_forward(%forward, %component, %layer, %a, %mean)
  moetap::log_in_forward(%forward, %component, %layer, %b, %vector)
  moetap::log_in_forward(%forward, %component, %layer, %c, %count)
  moetap::log_in_forward(%forward, %component, %layer, %d, %on)
  moetap::log_in_forward(%forward, %component, %layer, %e, %ratio)
  %end : int = moetap::end(%forward)
  moetap::ended(%end)
  return (%mean)
)IR");
  run(*function, {description, at::scalar_tensor(1.5), at::ones({2}), 7, true, 0.25});
  const auto& records = recorded.close();
  ASSERT_EQ(records.size(), 1u);
  const std::map<std::string, CustomValue> expected = {
      {"mean", 1.5}, {"count", int64_t{7}}, {"on", true}, {"ratio", 0.25}};
  const auto& custom = records[0].custom.at({"language_model", "3"});
  EXPECT_EQ(custom, expected);
  EXPECT_EQ(recorded.collected->counters.notices.size(), 1u);  // on the vector, which is left out
}

TEST(Operators, ASecondCopyOfTheLibraryStaysIdle) {
  const char* path = std::getenv("MOETAP_LIBRARY");  // the first copy is in this program
  ASSERT_NE(path, nullptr) << "MOETAP_LIBRARY must name libmoetap.so";
  testing::internal::CaptureStderr();
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: the library is loaded already, perhaps from another path; this copy stays idle\n");
  ASSERT_NE(library, nullptr) << dlerror();
  dlclose(library);
  RecordedRun recorded;
  const auto description = recorded.bind(gates(1));
  run(*parse(kRouterGraph), Inputs().stack(description));
  EXPECT_EQ(recorded.close().size(), 1u);
}

}  // namespace
}  // namespace moetap::plugin
