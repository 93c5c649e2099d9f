// A C++ inference program that records the routing of its model:  session_host MODEL.pt RUN_DIR
// MODEL.pt: forward(input_ids, attention_mask), plain or made by `moetap instrument`.
#include <ATen/ATen.h>
#include <plugin/session.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: session_host MODEL.pt RUN_DIR\n");
    return 2;
  }
  try {
    moetap::Config config;
    config.output_dir = argv[2];
    config.dump = moetap::plugin::Dump::kTopk;
    moetap::Session session(config);

    auto model = torch::jit::load(argv[1]);
    model.eval();
    auto recorded = session.attach(model, {argv[1], ""});  // `model` stays as it is

    const at::NoGradGuard no_gradients;
    constexpr int64_t kVocabulary = 32;
    for (int64_t request = 0; request < 4; ++request) {
      const auto token_ids = at::arange(request, request + 16, at::kLong).remainder(kVocabulary).reshape({2, 8});
      session.label({{2 * request, 2 * request + 1}});  // which samples the two sequences are
      recorded.forward({token_ids, at::ones_like(token_ids)});
      session.log("0", "request", request);
    }
    session.close();

    const auto counters = session.counters();
    std::printf("%ld forwards, %ld tokens, files in %s\n", counters.forwards, counters.tokens, argv[2]);
    if (const auto error = session.write_error()) {
      std::fprintf(stderr, "%s\n", error->c_str());
      return 1;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "session_host: %s\n", error.what());
    return 1;
  }
}
