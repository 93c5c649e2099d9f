// Transfer functions of RouterFlow for what computes nothing: tuples, lists, branches, loops, forks. See
// Note [Following a projection].
#include <algorithm>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

template <typename T>
void append_unique(std::vector<T>& into, const std::vector<T>& from) {
  for (const T& item : from) {
    if (std::find(into.begin(), into.end(), item) == into.end()) into.push_back(item);
  }
}

}  // namespace

jit::Value* RouterFlow::returned_as(const jit::Value* value) const {
  auto found = returned_.find(value);
  return found == returned_.end() ? nullptr : found->second;
}

void RouterFlow::pass(const jit::Value* from, jit::Value* to) {
  if (const Fact* found = fact(from)) {
    const Fact passed = *found;  // `set` may move what `found` points to
    set(to, passed);
  }
}

// Passes the fact of a tuple's element on, through the arms of a branch and out of a fork. False if nothing is known of
// the tuple.
bool RouterFlow::spread(jit::Value* tuple, size_t place, jit::Value* to) {
  const jit::Node* node = tuple->node();
  if (node->kind() == jit::prim::TupleConstruct) {
    if (place < node->inputs().size()) pass(node->input(place), to);
    return true;
  }
  if (node->kind() == jit::aten::wait) {
    auto subgraph = fork_subgraph(node->input(0)->node());
    if (subgraph == nullptr) return false;
    jit::Value* inner = subgraph->outputs()[0];
    if (inner->node()->kind() == jit::prim::TupleConstruct && place < inner->node()->inputs().size()) {
      returned_[inner->node()->input(place)] = to;
    }
    return spread(inner, place, to);
  }
  if (node->kind() == jit::prim::If) {
    for (const jit::Block* arm : node->blocks()) {
      const jit::Node* made = arm->outputs()[tuple->offset()]->node();
      if (made->kind() != jit::prim::TupleConstruct || place >= made->inputs().size()) continue;
      if (const Fact* found = fact(made->input(place))) set(to, leaving(*found, const_cast<jit::Node*>(node), to));
    }
    return true;
  }
  return false;
}

// The fact, outside of a branch or a loop, of a value that is returned as `output`.
Fact RouterFlow::leaving(Fact outside, jit::Node* owner, jit::Value* output) const {
  if (outside.aligned) {
    if (outside.score == outside.base) outside.score = output;
    if (outside.logits == outside.base) outside.logits = output;
    outside.base = output;
  }
  if (owner->kind() == jit::prim::If) {
    // If the other arm returns a value of the same role, the output is either of them.
    if (const Fact* other = fact(output); other != nullptr && other->role == outside.role) {
      outside.picks.insert(other->picks.begin(), other->picks.end());
      if (!visible_from(outside.logits, owner)) outside.logits = other->logits;
      append_unique(outside.ids, other->ids);
      outside.masked = outside.masked && other->masked;
      outside.unsure_slots = outside.unsure_slots || other->unsure_slots || outside.num_slots != other->num_slots;
    }
  }
  if (!visible_from(outside.logits, owner)) outside.logits = nullptr;
  if (!visible_from(outside.score, owner)) outside.score = nullptr;
  auto hidden = [&](jit::Value* value) { return !visible_from(value, owner); };
  std::erase_if(outside.ids, hidden);
  std::erase_if(outside.weights, hidden);
  if (outside.role == Role::kIds && outside.aligned) outside.ids = {output};
  if (outside.role == Role::kSlot && outside.aligned) outside.weights = {output};
  return outside;
}

void RouterFlow::visit_return(jit::Node* node) {
  jit::Node* owner = node->owningBlock()->owningNode();
  jit::Node* fork = owner == nullptr ? graph_.fork_of(node->owningGraph()) : nullptr;
  if (owner == nullptr && fork == nullptr) return;  // the method's result
  if (fork != nullptr) {
    // A fork's result keeps the fact that it has inside, so that the hook may be inserted there.
    if (fact(node->input(0)) != nullptr) returned_[node->input(0)] = fork->output();
    pass(node->input(0), fork->output());
    wake_users(fork->output());
    return;
  }
  const bool loop = owner->kind() == jit::prim::Loop;
  const size_t first = loop ? 1 : 0;
  for (size_t i = first; i < node->inputs().size() && i - first < owner->outputs().size(); ++i) {
    jit::Value* output = owner->output(i - first);
    const Fact* found = fact(node->input(i));
    if (found == nullptr) {
      if (node->input(i)->node()->kind() == jit::prim::TupleConstruct) wake_users(output);
      continue;
    }
    const Fact outside = leaving(*found, owner, output);
    set(output, outside);
    if (loop) set(node->owningBlock()->inputs()[i], outside);
  }
}

// Tuples, lists, loops, forks: values are passed on, not computed.
void RouterFlow::visit_structure(jit::Node* node) {
  const auto kind = node->kind();
  auto element = [&](const jit::Node* made, const jit::Value* index) -> const jit::Value* {
    const auto place = graph_.constant_int(index);
    const int64_t size = static_cast<int64_t>(made->inputs().size());
    if (!place.has_value() || *place < -size || *place >= size) return nullptr;
    return made->input(*place < 0 ? *place + size : *place);
  };
  if (kind == jit::prim::Loop) {
    for (size_t i = 2; i < node->inputs().size(); ++i) pass(node->input(i), node->blocks()[0]->inputs()[i - 1]);
  } else if (auto subgraph = fork_subgraph(node)) {
    for (size_t i = 0; i < node->inputs().size(); ++i) pass(node->input(i), subgraph->inputs()[i]);
  } else if (kind == jit::aten::wait) {
    pass(node->input(0), node->output());
    if (const jit::Value* inner = node->input(0); returned_.size() && fact(inner) != nullptr) {
      for (auto& [from, to] : returned_) {
        if (to == inner) to = node->output();
      }
    }
    wake_users(node->output());
  } else if (kind == jit::prim::unchecked_cast || kind == jit::aten::_unwrap_optional) {
    pass(node->input(0), node->output());
  } else if (kind == jit::aten::append) {
    wake_users(node->input(0));
  } else if (kind == jit::prim::TupleConstruct || kind == jit::prim::ListConstruct ||
             kind == jit::prim::DictConstruct) {
    wake_users(node->output());
  } else if (kind == jit::prim::TupleUnpack) {
    for (size_t i = 0; i < node->outputs().size(); ++i) spread(node->input(), i, node->output(i));
  } else if (kind == jit::prim::TupleIndex) {
    const auto place = graph_.constant_int(node->input(1));
    const int64_t size = static_cast<int64_t>(node->input(0)->type()->containedTypes().size());
    if (place.has_value() && *place >= -size && *place < size) {
      spread(node->input(0), *place < 0 ? *place + size : *place, node->output());
    }
  } else if (kind == jit::prim::ListUnpack) {
    const jit::Node* made = node->input()->node();
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      const bool listed = made->kind() == jit::prim::ListConstruct && i < made->inputs().size();
      if (listed) {
        pass(made->input(i), node->output(i));
      } else if (const Fact* found = fact(node->input())) {
        Fact piece = *found;
        if (piece.role == Role::kIds || piece.role == Role::kSlot) piece.place = static_cast<int>(i);
        if (piece.role == Role::kScore && piece.picks.empty()) {
          piece.part = static_cast<int>(i);
          piece.num_experts = piece.expert_dim == -1 ? shapes_.of(node->output(i)).last : std::nullopt;
          if (piece.score == nullptr) {
            piece.logits = node->output(i);
            piece.base = node->output(i);
          }
        }
        set(node->output(i), piece);
      }
    }
  } else if (kind == jit::aten::__getitem__) {
    const jit::Node* made = node->input(0)->node();
    if (made->kind() == jit::prim::DictConstruct) {
      const auto key = graph_.constant(node->input(1));
      for (size_t i = 0; key.has_value() && i + 1 < made->inputs().size(); i += 2) {
        const auto name = graph_.constant(made->input(i));
        if (name.has_value() && name->equals(*key).toBool()) pass(made->input(i + 1), node->output());
      }
    } else if (made->kind() == jit::prim::ListConstruct) {
      const jit::Value* found = element(made, node->input(1));
      if (found != nullptr && !grows_in_loop(node->input(0))) {
        pass(found, node->output());
      } else if (const auto elements = list_elements(node->input(0)); !elements.empty()) {
        if (const Fact* any = fact(elements[0])) {  // one of those that were appended
          Fact part = *any;
          lose_alignment(part);
          set(node->output(), part);
        }
      }
    } else if (const Fact* found = fact(node->input(0))) {
      Fact piece = *found;
      const bool slots = piece.role == Role::kIds || piece.role == Role::kSlot;
      if (slots && op_kind(*made) == OpKind::kSplit && is_along_slots(made->input(0), piece, made->inputs().back())) {
        const auto place = graph_.constant_int(node->input(1));
        piece.place = place && *place >= 0 ? static_cast<int>(*place) : -1;
        piece.place_in_run = piece.place < 0 ? node->input(1) : nullptr;
      }
      set(node->output(), piece);
    }
  }
}

}  // namespace moetap::hooks
