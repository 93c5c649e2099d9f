#include "hooks/probes.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <iterator>
#include <optional>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

jit::Symbol symbol(const char* name) {
  return jit::Symbol::fromQualString(name);
}

/// The step of a node that the pass has inserted; empty for one that computes.
std::optional<ReportStep> step_of(const jit::Node* node) {
  const auto dim = [&](size_t input) { return jit::constant_as<int64_t>(node->input(input)).value_or(0); };
  if (node->kind() == symbol("aten::clone")) return ReportStep{};
  if (node->kind() == symbol("aten::movedim")) return ReportStep{ReportStep::Kind::kMoveDim, dim(1), dim(2)};
  if (node->kind() == symbol("aten::unsqueeze")) return ReportStep{ReportStep::Kind::kAddDim, dim(1)};
  if (node->kind() == symbol("aten::sum")) return ReportStep{ReportStep::Kind::kSumDim, -1};
  return std::nullopt;
}

}  // namespace

bool reads_no_elements(const jit::Node* node) {
  static const jit::Symbol kinds[] = {symbol("aten::size"),  symbol("aten::dim"),   symbol("aten::len"),
                                      symbol("aten::numel"), symbol("prim::dtype"), symbol("prim::device")};
  return std::find(std::begin(kinds), std::end(kinds), node->kind()) != std::end(kinds);
}

/// True for the slice that the pass inserts before or behind shared experts: by the size of the slots alone.
bool leaves_out_shared(const jit::Node* node) {
  if (node->kind() != jit::aten::slice) return false;
  const auto is_size = [](const jit::Value* end) {
    const jit::Node* made = end->node();
    return made->kind() == jit::aten::size ||
           (made->kind() == jit::aten::neg && made->input(0)->node()->kind() == jit::aten::size);
  };
  return is_size(node->input(2)) || is_size(node->input(3));
}

Reported follow_back(jit::Value* value, const InPlaceWrites& writes) {
  static const jit::Symbol argsort = symbol("aten::argsort");
  Reported reported{value, value};
  // What the pass has inserted has no other use.
  while (reported.source->uses().size() == 1 && reported.source->node()->kind() != jit::prim::Param) {
    const jit::Node* node = reported.source->node();
    const auto step = step_of(node);
    if (!step) {
      // Ids by weight, weights that are put back from another order, and slots without those of shared experts are
      // computed for the report.
      const bool computes = node->kind() == argsort || node->kind() == jit::aten::scatter;
      if (computes || leaves_out_shared(node)) reported.source = nullptr;
      break;
    }
    reported.steps.insert(reported.steps.begin(), *step);
    reported.source = const_cast<jit::Value*>(node->input(0));
  }
  if (reported.source != nullptr) reported.after = writes.ready_after({reported.source});
  return reported;
}

std::vector<jit::Value*> flat_inputs(jit::Node* node) {
  std::vector<jit::Value*> inputs;
  for (jit::Value* input : node->inputs()) {
    if (input->node()->kind() == jit::prim::ListConstruct) {
      inputs.insert(inputs.end(), input->node()->inputs().begin(), input->node()->inputs().end());
    } else {
      inputs.push_back(input);
    }
  }
  return inputs;
}

at::ArrayRef<jit::Value*> results_of(jit::Node* node) {
  const bool returns = node->kind() == jit::prim::Return && node->owningBlock()->owningNode() != nullptr;
  return returns ? node->owningBlock()->owningNode()->outputs() : node->outputs();
}

int64_t Probes::on(jit::Value* value, jit::Node* after) {
  const auto [known, is_new] = ids_.try_emplace(value, next_);
  if (is_new) insert(value, after);
  return known->second;
}

int64_t Probes::on_input(jit::Node* reader, size_t index, jit::Node* place) {
  jit::WithInsertPoint here(place);
  reader->replaceInput(index, probe(reader->input(index))->output());
  return next_++;
}

jit::Node* Probes::probe(jit::Value* value) const {
  jit::Graph& graph = *value->owningGraph();
  static const jit::Symbol kind = symbol("moetap::probe");
  jit::Value* number = graph.insertConstant(next_);
  jit::Node* node = graph.insertNode(graph.create(kind, {value, number}, 1));
  node->output()->setType(value->type());
  return node;
}

void Probes::insert(jit::Value* value, jit::Node* after) {
  const bool is_input = after->kind() == jit::prim::Param;
  jit::WithInsertPoint here(is_input ? *after->owningBlock()->nodes().begin() : after->next());
  jit::Node* node = probe(value);
  value->replaceAllUsesAfterNodeWith(node, node->output());
  ++next_;
}

}  // namespace moetap::hooks
