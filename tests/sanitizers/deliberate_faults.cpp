// Faults in code of ours that LibTorch's interpreter calls: the suppressions are right only while these are reported.
//
// deliberate_faults leak | race | ranges

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/library.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "analysis/numbers/token_ranges.h"

namespace {

at::Tensor leaking_operator(const at::Tensor& x) {
  char* volatile lost = new char[77];
  lost[0] = 1;
  lost = nullptr;
  return x;
}

int64_t shared_by_threads = 0;

at::Tensor racing_operator(const at::Tensor& x) {
  for (int i = 0; i < 1000; ++i) {
    ++shared_by_threads;
    std::this_thread::yield();
  }
  return x;
}

TORCH_LIBRARY(deliberate_faults, library) {
  library.def("leak(Tensor x) -> Tensor", &leaking_operator);
  library.def("race(Tensor x) -> Tensor", &racing_operator);
}

/// Runs a graph of one call.
void call(const std::string& name) {
  const auto graph = std::make_shared<torch::jit::Graph>();
  torch::jit::parseIR("graph(%x : Tensor):\n  %y : Tensor = " + name + "(%x)\n  return (%y)", graph.get());
  torch::jit::Stack stack{at::ones({1})};
  torch::jit::InterpreterState(torch::jit::Code(graph, name)).run(stack);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view fault = argc == 2 ? argv[1] : "";
  if (fault == "leak") {
    call("deliberate_faults::leak");
  } else if (fault == "race") {
    std::thread other([] { call("deliberate_faults::race"); });
    call("deliberate_faults::race");
    other.join();
  } else if (fault == "ranges") {
    at::set_num_threads(2);
    moetap::analysis::for_token_ranges(/*num_tokens=*/2, /*grain=*/1, [](int64_t, int64_t) { racing_operator({}); });
  } else {
    std::fprintf(stderr, "usage: deliberate_faults leak | race | ranges\n");
    return 2;
  }
  return 0;
}
