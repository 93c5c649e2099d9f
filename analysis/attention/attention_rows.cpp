#include "analysis/attention/attention_rows.h"

#include <bit>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_paths.h"

namespace moetap::analysis {

AttentionRows measure_attention(const AttentionCall& call, const AttentionTokens& tokens,
                                const AttentionOptions& options) {
  check_attention(call, tokens);
  if (tokens.query_position.is_cpu()) return measure_on_cpu(call, tokens, options);
  return measure_on_device(call, tokens, options);
}

int64_t score_code(float score) {
  const auto bits = std::bit_cast<uint32_t>(score);
  return int64_t{(bits >> 31) != 0 ? ~bits : bits | 0x80000000U} + 1;
}

float score_of_code(int64_t code) {
  const auto bits = static_cast<uint32_t>(code - 1);
  return std::bit_cast<float>((bits >> 31) != 0 ? bits & 0x7fffffffU : ~bits);
}

}  // namespace moetap::analysis
