// Evaluates a model over a directory of samples, one log entry each:  eval_wrapper MODEL.pt SAMPLES_DIR RUN_DIR
// SAMPLES_DIR: one .pt file a sample, in the order of their names: a tuple of the forward's arguments, written by
// torch.save. Optionally samples.jsonl with the log fields of each sample (target, doc, ...), a line a sample.
// Killed at any moment, the same command goes on with the run, or says that it is done.
#include <ATen/ATen.h>
#include <plugin/session.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> sample_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".pt") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<c10::IValue> read_arguments(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return torch::jit::pickle_load(bytes).toTupleRef().elements().vec();
}

moetap::Config configure(const fs::path& samples, const std::string& run) {
  moetap::Config config;
  config.output_dir = run;
  config.resume = true;
  if (fs::exists(samples / "samples.jsonl")) config.samples = samples / "samples.jsonl";
  return config;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: eval_wrapper MODEL.pt SAMPLES_DIR RUN_DIR\n");
    return 2;
  }
  try {
    const auto files = sample_files(argv[2]);
    if (moetap::Session::is_done(argv[3])) {
      std::printf("%zu samples, the run in %s is done\n", files.size(), argv[3]);
      return 0;
    }
    const at::NoGradGuard no_gradients;
    moetap::Session session(configure(argv[2], argv[3]));
    auto model = torch::jit::load(argv[1]);
    model.eval();
    auto recorded = session.attach(model, {argv[1], ""});

    const auto& done = session.recorded_samples();
    for (int64_t sample = 0; sample < static_cast<int64_t>(files.size()); ++sample) {
      if (std::binary_search(done.begin(), done.end(), sample)) continue;
      session.label({{sample}});
      recorded.forward(read_arguments(files[static_cast<size_t>(sample)]));
    }
    session.close();
    if (const auto error = session.write_error()) {
      std::fprintf(stderr, "eval_wrapper: %s\n", error->c_str());
      return 1;
    }
    std::printf("%zu samples, %zu of them from before\n", files.size(), done.size());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "eval_wrapper: %s\n", error.what());
    return 1;
  }
}
