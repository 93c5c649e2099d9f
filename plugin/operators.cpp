#include "plugin/operators.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>
#include <torch/library.h>

#include <cstdio>
#include <memory>

#include "analysis/devices/own_file.h"
#include "hooks/points/operator_schemas.h"
#include "plugin/observe.h"
#include "plugin/process/error_text.h"
#include "plugin/process/libtorch_version.h"
#include "plugin/process/recycled_memory.h"
#include "plugin/process_session.h"
#include "plugin/python_session.h"
#include "plugin/session/forward_recorder.h"
#include "plugin/session/model_registry.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {

std::shared_ptr<ModelBinding> find_binding(std::string_view description) {
  if (process_exits()) {
    return nullptr;
  }
  auto attached = ModelRegistry::get().find(description);
  return attached && attached->recording().accepts() ? attached : bind_to_process_session(description);
}

OutsideTheModel::OutsideTheModel()
    : excluded_(c10::autocast_dispatch_keyset | c10::DispatchKeySet({c10::DispatchKey::Tracer, c10::DispatchKey::Python,
                                                                     c10::DispatchKey::PythonTLSSnapshot})) {}

at::Tensor tensor_or_none(const c10::IValue& value) {
  return value.isNone() ? at::Tensor() : value.toTensor();
}

SlotTensors tensors_of(const c10::IValue& value) {
  SlotTensors tensors;
  if (value.isTensor()) tensors.push_back(value.toTensor());
  if (value.isList()) {
    for (const c10::IValue& tensor : value.toListRef()) tensors.push_back(tensor.toTensor());
  }
  return tensors;
}

namespace {

/// What the storage of a handle owns. A handle is told from other tensors by its deleter. A model's own tensor has
/// another, and so has `inert_handle`.
struct HandleContext : Recycled {
  template <typename... Arguments>
  explicit HandleContext(Arguments&&... arguments) : recorder(std::forward<Arguments>(arguments)...) {}

  int64_t value = 0;  // what the tensor shows
  ForwardRecorder recorder;
};

void delete_handle(void* context) {
  delete static_cast<HandleContext*>(context);
}

struct HandleStorage final : c10::StorageImpl, Recycled {
  using StorageImpl::StorageImpl;
};

/// As LibTorch would make it, but in recycled memory: one is made for each forward.
class HandleTensor final : public c10::TensorImpl, public Recycled {
 public:
  HandleTensor(c10::Storage storage, const c10::VariableVersion& version)
      : TensorImpl(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), caffe2::TypeMeta::Make<int64_t>()) {
    // `make_handle` makes an inference tensor, which has no version of its own.
    key_set_ = key_set_ | c10::getAutogradRelatedKeySetFromBackend(c10::BackendComponent::CPUBit);
    set_version_counter(version);
    set_sizes_contiguous({1});
  }
};

at::Tensor make_handle(std::unique_ptr<HandleContext> context) {
  // Nobody asks for the version of a handle, so all have the same.
  static const auto* version = new c10::VariableVersion(0);
  int64_t* value = &context->value;
  at::DataPtr data(value, context.release(), &delete_handle, at::kCPU);
  c10::Storage storage(c10::make_intrusive<HandleStorage>(c10::StorageImpl::use_byte_size_t(), sizeof(*value),
                                                          std::move(data), /*allocator=*/nullptr, /*resizable=*/false));
  const c10::InferenceMode without_version;
  return at::detail::make_tensor<HandleTensor>(std::move(storage), *version);
}

/// For forwards that nobody records. Never destroyed: forwards may run while the process exits.
const at::Tensor& inert_handle() {
  static const auto* handle = new at::Tensor(at::zeros({1}, at::kLong));
  return *handle;
}

ForwardRecorder* recorder_of(const at::Tensor& handle) {
  const at::DataPtr& data = handle.storage().data_ptr();
  return data.get_deleter() == &delete_handle ? &static_cast<HandleContext*>(data.get_context())->recorder : nullptr;
}

at::Tensor begin(std::string_view description, std::string_view method,
                 const c10::List<std::optional<at::Tensor>>& arguments) {
  const OutsideTheModel outside;
  const auto binding = find_binding(description);
  if (!binding) {
    return inert_handle();
  }
  try {
    return make_handle(std::make_unique<HandleContext>(binding, std::string(method), arguments));
  } catch (const std::exception& error) {
    if (binding->recording().config().strict) {
      throw;
    }
    binding->recording().notice("a forward was not recorded", one_line(error));
    return inert_handle();
  }
}

/// Boxed, so that no list of tensors is made anew. Arguments: see kRouterSchema and kRouterOfOneSchema.
void router(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  constexpr size_t kNumArguments = 11;
  const auto arguments = torch::jit::last(*stack, kNumArguments);
  if (ForwardRecorder* recorder = recorder_of(arguments[0].toTensor())) {
    const OutsideTheModel outside;
    recorder->router(arguments[1].toInt(),
                     {tensor_or_none(arguments[2]), tensor_or_none(arguments[3]), tensors_of(arguments[4]),
                      tensors_of(arguments[5]), arguments[6].toInt(), arguments[7].toStringView(),
                      tensor_or_none(arguments[8]), tensor_or_none(arguments[9]), arguments[10].toStringView()});
  }
  torch::jit::drop(*stack, kNumArguments);
}

/// Arguments: see kAttentionSchema.
void attention(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  constexpr size_t kNumArguments = 13;
  const auto arguments = torch::jit::last(*stack, kNumArguments);
  if (ForwardRecorder* recorder = recorder_of(arguments[0].toTensor())) {
    const OutsideTheModel outside;
    ReportedAttention reported;
    reported.query = tensor_or_none(arguments[2]);
    reported.key = tensor_or_none(arguments[3]);
    reported.mask = tensor_or_none(arguments[4]);
    reported.probabilities = tensor_or_none(arguments[5]);
    reported.scores = tensor_or_none(arguments[6]);
    reported.scale = arguments[8].toOptional<double>();
    reported.causal = arguments[9].toBool();
    reported.num_heads = arguments[10].toInt();
    reported.layout = arguments[11].toStringView();
    reported.log_sum_exp = tensor_or_none(arguments[12]);
    recorder->attention(arguments[1].toInt(), reported);
  }
  torch::jit::drop(*stack, kNumArguments);
}

/// Boxed, since `Any` has no unboxed type. Arguments: forward, component, layer, name, value.
void log_in_forward(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::pop(*stack, 5);
  if (ForwardRecorder* recorder = recorder_of(arguments[0].toTensor())) {
    const OutsideTheModel outside;
    recorder->log(arguments[1].toStringRef(), arguments[2].toStringRef(), arguments[3].toStringRef(), arguments[4]);
  }
}

/// Arguments: name, value.
void log_outside_a_forward(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  torch::jit::drop(*stack, 2);
}

int64_t end(const at::Tensor& forward) {
  if (ForwardRecorder* recorder = recorder_of(forward)) {
    const OutsideTheModel outside;
    recorder->end();
  }
  return 0;
}

/// Only keeps the others alive: see Note [Schemas of the operators].
void ended(int64_t) {}

/// The kernels serve every backend, with and without gradients.
template <typename Kernel>
torch::CppFunction for_all(Kernel&& kernel) {
  return torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, std::forward<Kernel>(kernel));
}

OperatorOwner owner = OperatorOwner::kNobody;

std::unique_ptr<torch::Library> register_operators() {
  constexpr const char* kNamespace = "moetap";
  if (const auto mismatch = libtorch_mismatch()) {
    std::fprintf(stderr, "moetap: %s\n", mismatch->c_str());
    return nullptr;
  }
  if (c10::Dispatcher::singleton().findSchema({"moetap::begin", ""})) {
    owner = OperatorOwner::kAnotherCopy;
    // The program starts anew without the other copy: see cli/main.cpp.
    if (!analysis::is_in_program()) {
      std::fprintf(stderr, "moetap: the library is loaded already, perhaps from another path; this copy stays idle\n");
    }
    return nullptr;
  }
  auto library = std::make_unique<torch::Library>(torch::Library::DEF, kNamespace, std::nullopt, __FILE__, __LINE__);
  const auto side_effects = c10::AliasAnalysisKind::CONSERVATIVE;
  const auto as_written = c10::AliasAnalysisKind::FROM_SCHEMA;
  library->def(torch::schema(hooks::kBeginSchema, as_written));
  library->def(torch::schema(hooks::kRouterSchema, as_written));
  library->def(torch::schema(hooks::kRouterOfOneSchema, as_written));
  library->def(torch::schema(hooks::kAttentionSchema, as_written));
  library->def(torch::schema(hooks::kLogInForwardSchema, as_written));
  library->def(torch::schema(hooks::kEndSchema, as_written));
  library->def(torch::schema(hooks::kEndedSchema, side_effects));
  library->impl("begin", for_all(TORCH_FN(begin)));
  library->impl("router", for_all(torch::CppFunction::makeFromBoxedFunction<&router>()));
  library->impl("router.one", for_all(torch::CppFunction::makeFromBoxedFunction<&router>()));
  library->impl("attention", for_all(torch::CppFunction::makeFromBoxedFunction<&attention>()));
  library->impl("log_in_forward", for_all(torch::CppFunction::makeFromBoxedFunction<&log_in_forward>()));
  library->impl("end", for_all(TORCH_FN(end)));
  library->impl("ended", for_all(TORCH_FN(ended)));
  define_observe(*library);
  define_python_session(*library);
  for (const char* schema : hooks::kLogSchemas) {
    library->def(torch::schema(schema, side_effects));
    const std::string name(schema, std::string_view(schema).find('('));
    library->impl(name.c_str(), for_all(torch::CppFunction::makeFromBoxedFunction<&log_outside_a_forward>()));
  }
  owner = OperatorOwner::kThisCopy;
  return library;
}

// Unregisters the operators when the library is unloaded.
const std::unique_ptr<torch::Library> registered = register_operators();

}  // namespace

OperatorOwner operator_owner() {
  return owner;
}

}  // namespace moetap::plugin
