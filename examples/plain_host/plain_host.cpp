// A C++ inference program that knows nothing of moetap:  plain_host MODEL.pt THREADS INPUT.pt...
// Runs the model's forward on each input (a tuple of arguments that torch.save wrote) and prints the sum of each
// output. THREADS worker threads share one model and take the inputs in turns.
#include <ATen/ATen.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace {

std::vector<c10::IValue> read_arguments(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return torch::jit::pickle_load(bytes).toTupleRef().elements().vec();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: plain_host MODEL.pt THREADS INPUT.pt...\n");
    return 2;
  }
  try {
    auto model = torch::jit::load(argv[1]);
    model.eval();
    const std::vector<std::string> inputs(argv + 3, argv + argc);
    std::vector<double> sums(inputs.size());
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      const at::NoGradGuard no_gradients;
      for (size_t i; (i = next++) < inputs.size();) {
        sums[i] = model.forward(read_arguments(inputs[i])).toTensor().sum(at::kDouble).item<double>();
      }
    };
    std::vector<std::thread> workers;
    for (int i = 0; i < std::atoi(argv[2]); ++i) workers.emplace_back(work);
    for (auto& worker : workers) worker.join();
    for (const double sum : sums) std::printf("%.17g\n", sum);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plain_host: %s\n", error.what());
    return 1;
  }
}
