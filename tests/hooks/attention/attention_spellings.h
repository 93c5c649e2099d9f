#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "../moe_sources.h"

namespace moetap::hooks::testing {

/// Which probabilities are to be found.
struct AttentionFacts {
  int64_t heads = 2;
  int64_t key_heads = 2;
  bool masks_padding = false;
  bool causal = false;
  bool has_bias = false;   // [heads, kSequence, kSequence], added
  bool has_sinks = false;  // [heads], beside the keys
  double soft_cap = 0;     // 0: none
  bool has_scores = true;  // of one that the model writes out
};

/// A way to write attention: methods of a module that has `wq`, `wk`, `wv` and, for some, `bias` and `sinks`. Its
/// `forward(self, x, keep)` gets hidden states [kBatch, kSequence, kHidden] and which tokens are there, int64
/// [kBatch, kSequence].
struct AttentionSpelling {
  const char* name;
  const char* layout;  // operator_schemas.h
  const char* implementation;
  const char* code;
  AttentionFacts facts = {};
};

void PrintTo(const AttentionSpelling& spelling, std::ostream* stream);

/// The rest of the code may call `self.heads(t)`: [batch, heads, tokens, size of a head], `self.joined(y)`, its
/// opposite, and `self.projected(x)`: heads of queries, keys and values. Scores are multiplied by `kScale`.
inline constexpr double kScale = 0.5;
std::vector<AttentionSpelling> attention_spellings();

/// A model that calls the spelling's module as `attn`.
torch::jit::Module model_of(const AttentionSpelling& spelling);

/// [kBatch, heads, kSequence, kSequence], of the module's parameters.
at::Tensor expected_probabilities(const AttentionSpelling& spelling, const torch::jit::Module& model,
                                  const at::Tensor& x, const at::Tensor& keep);

/// Something that looks like attention over tokens and is none.
struct AttentionLookAlike {
  const char* name;
  const char* reason;  // under which it is skipped; "": not listed
  const char* code;
};

void PrintTo(const AttentionLookAlike& look_alike, std::ostream* stream);

std::vector<AttentionLookAlike> attention_look_alikes();

torch::jit::Module model_of(const AttentionLookAlike& look_alike);

}  // namespace moetap::hooks::testing
