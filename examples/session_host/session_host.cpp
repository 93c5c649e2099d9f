// A C++ inference program that records the routing of its model:  session_host MODEL.pt RUN_DIR INPUTS.pt...
// MODEL.pt: any TorchScript model, plain or made by `moetap instrument`. INPUTS.pt: the arguments of one forward,
// written by torch.save: a tuple by position, or a dict by name.
#include <ATen/ATen.h>
#include <plugin/session.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

struct Arguments {
  std::vector<c10::IValue> positional;
  std::unordered_map<std::string, c10::IValue> named;
};

Arguments read_arguments(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (bytes.empty()) throw std::runtime_error(path + ": cannot be read, or is empty");
  c10::IValue value;
  try {
    value = torch::jit::pickle_load(bytes);
  } catch (const std::exception&) {
    throw std::runtime_error(path + ": is not a file of torch.save with a tuple or a dict of tensors");
  }
  if (value.isTuple()) return {value.toTupleRef().elements().vec(), {}};
  if (!value.isGenericDict()) throw std::runtime_error(path + ": must hold a tuple or a dict, got " + value.tagKind());
  Arguments arguments;
  for (const auto& entry : value.toGenericDict()) arguments.named.emplace(entry.key().toStringRef(), entry.value());
  return arguments;
}

/// The first line of an error: LibTorch's messages continue with a backtrace.
std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: session_host MODEL.pt RUN_DIR INPUTS.pt...\n");
    return 2;
  }
  try {
    moetap::Config config;
    config.output_dir = argv[2];
    config.dump = moetap::plugin::Dump::kTopk;
    moetap::Session session(config);

    auto model = torch::jit::load(argv[1]);
    model.eval();
    auto recorded = session.attach(model, {argv[1], ""});  // a twin that shares the weights; `model` stays as it is

    const at::NoGradGuard no_gradients;
    for (int i = 3; i < argc; ++i) {
      auto arguments = read_arguments(argv[i]);
      recorded.forward(std::move(arguments.positional), arguments.named);
    }
    session.close();

    const auto counters = session.counters();
    std::printf("%ld forwards, %ld tokens, files in %s\n", counters.forwards, counters.tokens, argv[2]);
    if (const auto error = session.write_error()) {
      std::fprintf(stderr, "session_host: %s\n", error->c_str());
      return 1;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "session_host: %s\n", first_line(error).c_str());
    return 1;
  }
}
