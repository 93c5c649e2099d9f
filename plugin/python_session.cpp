#include "plugin/python_session.h"

#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>
#include <fmt/format.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "hooks/instrument.h"
#include "hooks/points/no_router.h"
#include "plugin/process/error_text.h"
#include "plugin/process_session.h"
#include "plugin/records/model_description_json.h"
#include "plugin/session.h"

namespace moetap::plugin {
namespace {

/// Python shows an exception of a bound class with its message; the backtrace of LibTorch's would hide it.
template <typename Body>
auto with_one_line(Body&& body) {
  try {
    return body();
  } catch (const c10::Error& error) {
    throw std::runtime_error(one_line(error));
  }
}

torch::jit::Module module_in(const c10::IValue& value) {
  if (!value.isModule()) throw std::invalid_argument("expected a ScriptModule");
  return value.toModule();
}

/// `config`: a JSON object, with the keys of a configuration file.
class PythonSession : public torch::CustomClassHolder {
 public:
  explicit PythonSession(const std::string& config) : session_(config_from(config)) {}

  c10::IValue attach(const c10::IValue& module, const std::string& model_file, const std::string& sha256) {
    return with_one_line([&] { return session_.attach(module_in(module), {model_file, sha256})._ivalue(); });
  }
  void attach_description(const std::string& description) {
    with_one_line([&] { session_.attach_description(description); });
  }
  void label(std::vector<int64_t> samples, bool generation) { session_.label({std::move(samples), generation}); }
  void clear_label() { session_.clear_label(); }
  void pause() { session_.pause(); }
  void resume() { session_.resume(); }
  void log(const std::string& layer, const std::string& name, double value) { session_.log(layer, name, value); }
  void flush() { session_.flush(); }
  void close(bool done) {
    with_one_line([&] { session_.close(done ? RunEnd::kDone : RunEnd::kUnfinished); });
  }
  c10::Dict<std::string, int64_t> counters() const {
    const Counters counters = session_.counters();
    c10::Dict<std::string, int64_t> named;
    for (const CounterInfo& count : kCounters) named.insert(std::string(count.key.name), counters.*count.member);
    return named;
  }
  std::string write_error() const { return session_.write_error().value_or(""); }
  std::string config() const { return session_.config().to_json().dump(); }

 private:
  static Config config_from(const std::string& text) {
    Config config = process_defaults();
    config.update_from_json_text(text, "moetap.attach");
    return config;
  }

  Session session_;
};

/// Arguments: module, model file, SHA-256. Boxed, since `Any` has no unboxed type.
void instrument(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::pop(*stack, 3);
  const torch::jit::Module module = module_in(arguments[0]);
  const auto describe = [&](const hooks::Discovery& discovery) {
    if (discovery.hooks.empty()) throw std::invalid_argument(hooks::no_router_message(module, discovery));
    return to_text(describe_model(module, discovery, arguments[1].toStringRef(), arguments[2].toStringRef()));
  };
  torch::jit::push(*stack, with_one_line([&] { return hooks::instrument(module, describe).module._ivalue(); }));
}

}  // namespace

void define_python_session(torch::Library& library) {
  library.class_<PythonSession>("Session")
      .def(torch::init<std::string>())
      .def("attach", &PythonSession::attach)
      .def("attach_description", &PythonSession::attach_description)
      .def("label", &PythonSession::label)
      .def("clear_label", &PythonSession::clear_label)
      .def("pause", &PythonSession::pause)
      .def("resume", &PythonSession::resume)
      .def("log", &PythonSession::log)
      .def("flush", &PythonSession::flush)
      .def("close", &PythonSession::close)
      .def("counters", &PythonSession::counters)
      .def("write_error", &PythonSession::write_error)
      .def("config", &PythonSession::config);
  library.def(torch::schema("moetap::instrument(Any module, str model_file, str sha256) -> Any",
                            c10::AliasAnalysisKind::CONSERVATIVE));
  library.impl("instrument", torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd,
                                             torch::CppFunction::makeFromBoxedFunction<&instrument>()));
}

}  // namespace moetap::plugin
