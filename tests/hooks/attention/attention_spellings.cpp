#include "attention_spellings.h"

#include <ATen/ATen.h>

#include <ostream>

namespace moetap::hooks::testing {
namespace jit = torch::jit;

namespace {

constexpr const char* kHelpers = R"(
def heads(self, t: Tensor) -> Tensor:
    return t.view(t.size(0), t.size(1), -1, self.size).transpose(1, 2)

def projected(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.linear(x, self.wq), torch.linear(x, self.wk), torch.linear(x, self.wv)
    return self.heads(q), self.heads(k), self.heads(v)

def joined(self, y: Tensor) -> Tensor:
    return y.transpose(1, 2).reshape(y.size(0), y.size(2), -1)
)";

constexpr const char* kModel = R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    return self.attn.forward(torch.layer_norm(x, [8]), keep)
)";

jit::Module model_around(const ModuleSource& attention) {
  return compile({.type = "Model", .modules = {{"attn", compile(attention)}}, .code = kModel});
}

ModuleSource module_source(const std::string& code, int64_t heads, int64_t key_heads) {
  const int64_t size = kHidden / heads;
  ModuleSource source{.type = "Attention"};
  source.parameters = {{"wq", random_tensor({kHidden, kHidden}, 1)},
                       {"wk", random_tensor({key_heads * size, kHidden}, 2)},
                       {"wv", random_tensor({key_heads * size, kHidden}, 3)},
                       {"bias", random_tensor({heads, kSequence, kSequence}, 4)},
                       {"sinks", random_tensor({heads}, 5)},
                       {"memory", random_tensor({7, kHidden}, 6)}};
  source.integers = {{"size", size}, {"num_heads", heads}, {"causal", 1}};
  source.code = kHelpers + code;
  return source;
}

}  // namespace

void PrintTo(const AttentionSpelling& spelling, std::ostream* stream) {
  *stream << spelling.name;
}

void PrintTo(const AttentionLookAlike& look_alike, std::ostream* stream) {
  *stream << look_alike.name;
}

std::vector<AttentionSpelling> attention_spellings() {
  std::vector<AttentionSpelling> all;
  all.push_back({"matmul", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1)
    return self.joined(torch.matmul(p, v))
)"});
  all.push_back({"scale_on_the_query", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    q = q / 2.0
    p = torch.softmax(torch.matmul(q, k.permute([0, 1, 3, 2])), 3)
    return self.joined(torch.matmul(torch.dropout(p, 0.1, False), v))
)"});
  all.push_back({"scale_on_the_key", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    return self.joined(torch.matmul(torch.matmul(q, (k * 0.5).mT).softmax(-1), v))
)"});
  all.push_back({"boolean_mask_filled_in",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    s = s.masked_fill(keep.unsqueeze(1).unsqueeze(1) == 0, float("-inf"))
    return self.joined(torch.matmul(torch.softmax(s, -1), v))
)",
                 {.masks_padding = true}});
  all.push_back({"additive_mask_in_place",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    s += (1.0 - keep.unsqueeze(1).unsqueeze(1).to(s.dtype)) * -1e9
    return self.joined(torch.matmul(torch.softmax(s, -1), v))
)",
                 {.masks_padding = true}});
  all.push_back({"masks_in_branches",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    if bool(torch.any(keep == 0)):
        s = s.masked_fill(keep.unsqueeze(1).unsqueeze(1) == 0, -1e9)
    if self.causal == 1:
        n = x.size(1)
        s = torch.where(torch.ones([n, n], dtype=boolean).tril(), s, torch.full_like(s, -1e30))
    return self.joined(torch.matmul(torch.softmax(s, -1), v))
)",
                 {.masks_padding = true, .causal = true}});
  all.push_back({"soft_capping",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.tanh(torch.matmul(q, k.transpose(-2, -1)) * 0.5 / 2.0) * 2.0
    s = s + (1.0 - keep.unsqueeze(1).unsqueeze(1).to(s.dtype)) * -1e9
    return self.joined(torch.matmul(torch.softmax(s, -1), v))
)",
                 {.masks_padding = true, .soft_cap = 2}});
  all.push_back({"float32_softmax", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1, dtype=float32).to(q.dtype)
    return self.joined(torch.matmul(p, v))
)"});
  all.push_back({"relative_bias",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(self.bias.unsqueeze(0) + torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1)
    return self.joined(torch.matmul(p, v))
)",
                 {.has_bias = true}});
  all.push_back({"sinks_behind_the_keys",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    s = torch.cat([s, self.sinks.view(1, -1, 1, 1).expand([x.size(0), -1, x.size(1), 1])], -1)
    p = torch.softmax(s - torch.amax(s, [-1], True), -1)[:, :, :, :-1]
    return self.joined(torch.matmul(torch.dropout(p, 0.5, False), v))
)",
                 {.has_sinks = true}});
  all.push_back({"sinks_cut_off_behind_a_dropout",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    s = torch.cat([self.sinks.view(1, -1, 1, 1).expand([x.size(0), -1, x.size(1), 1]), s], -1)
    p = torch.dropout(torch.softmax(s, -1), 0.5, True)
    return self.joined(torch.matmul(p[:, :, :, 1:], v))
)",
                 {.has_sinks = true}});
  all.push_back({"sink_in_the_denominator",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    largest = torch.maximum(torch.amax(s, [-1], True), self.sinks.view(1, -1, 1, 1))
    e = torch.exp(s - largest)
    p = e / (e.sum(-1, keepdim=True) + torch.exp(self.sinks.view(1, -1, 1, 1) - largest))
    return self.joined(torch.matmul(p, v))
)",
                 {.has_sinks = true}});
  all.push_back({"softmax_written_out", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    e = torch.exp(s - torch.amax(s, [-1], True))
    return self.joined(torch.matmul(e / e.sum(-1, keepdim=True), v))
)"});
  all.push_back({"exponential_of_log_softmax", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.exp(torch.log_softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1))
    return self.joined(torch.matmul(p, v))
)"});
  all.push_back({"dropout_in_place", "bhqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1)
    return self.joined(torch.matmul(torch.dropout_(p, 0.5, True), v))
)"});
  all.push_back({"masked_behind_the_softmax",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1)
    p = p * keep.unsqueeze(1).unsqueeze(1).to(p.dtype)
    p = p / p.sum(-1, keepdim=True)
    return self.joined(torch.matmul(torch.dropout(p, 0.5, True), v))
)",
                 {.masks_padding = true}});
  all.push_back({"bmm_over_batch_and_heads", "mqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = self.heads(torch.linear(x, self.wq)).reshape(b * self.num_heads, n, self.size)
    k = self.heads(torch.linear(x, self.wk)).reshape(b * self.num_heads, n, self.size)
    v = self.heads(torch.linear(x, self.wv)).reshape(b * self.num_heads, n, self.size)
    p = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * 0.5, -1)
    return self.joined(torch.bmm(p, v).view(b, self.num_heads, n, self.size))
)"});
  all.push_back({"sequence_first", "mqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    t = x.transpose(0, 1)
    n, b = t.size(0), t.size(1)
    q = torch.linear(t, self.wq).view(n, b * self.num_heads, self.size).transpose(0, 1)
    k = torch.linear(t, self.wk).view(n, b * self.num_heads, self.size).transpose(0, 1)
    v = torch.linear(t, self.wv).view(n, b * self.num_heads, self.size).transpose(0, 1)
    p = torch.softmax(torch.bmm(q * 0.5, k.transpose(1, 2)), -1)
    return torch.bmm(p, v).transpose(0, 1).reshape(n, b, -1).transpose(0, 1)
)"});
  all.push_back({"baddbmm_with_a_bias",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = self.heads(torch.linear(x, self.wq)).reshape(b * self.num_heads, n, self.size)
    k = self.heads(torch.linear(x, self.wk)).reshape(b * self.num_heads, n, self.size)
    v = self.heads(torch.linear(x, self.wv)).reshape(b * self.num_heads, n, self.size)
    s = torch.baddbmm(self.bias.repeat([b, 1, 1]), q, k.transpose(1, 2), beta=1.0, alpha=0.5)
    s = s.view(b, self.num_heads, n, n).masked_fill(torch.ones([n, n], dtype=boolean).triu(1), -1e9)
    p = torch.softmax(s, -1).view(b * self.num_heads, n, n)
    return self.joined(torch.bmm(p, v).view(b, self.num_heads, n, self.size))
)",
                 {.causal = true, .has_bias = true}});
  all.push_back({"einsum", "bhqk", "einsum", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = torch.linear(x, self.wq).view(b, n, self.num_heads, self.size)
    k = torch.linear(x, self.wk).view(b, n, self.num_heads, self.size)
    v = torch.linear(x, self.wv).view(b, n, self.num_heads, self.size)
    p = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", [q, k]) * 0.5, -1)
    return torch.einsum("bhqk,bkhd->bqhd", [p, v]).reshape(b, n, -1)
)"});
  all.push_back({"einsum_with_heads_last", "bqkh", "einsum", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = torch.linear(x, self.wq).view(b, n, self.num_heads, self.size)
    k = torch.linear(x, self.wk).view(b, n, self.num_heads, self.size)
    v = torch.linear(x, self.wv).view(b, n, self.num_heads, self.size)
    p = torch.softmax(torch.einsum("bihd,bjhd->bijh", [q, k]) * 0.5, 2)
    return torch.einsum("bijh,bjhd->bihd", [p, v]).reshape(b, n, -1)
)"});
  all.push_back({"einsum_with_dots", "bhqk", "einsum", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.einsum("...qd,...kd->...qk", [q, k]) * 0.5, -1)
    return self.joined(torch.einsum("...qk,...kd->...qd", [p, v]))
)"});
  all.push_back({"einsum_over_groups",
                 "bgrqk",
                 "einsum",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = torch.linear(x, self.wq).view(b, n, 2, 2, self.size)
    k = torch.linear(x, self.wk).view(b, n, 2, self.size)
    v = torch.linear(x, self.wv).view(b, n, 2, self.size)
    p = torch.softmax(torch.einsum("bqgrd,bkgd->bgrqk", [q, k]) * 0.5, -1)
    return torch.einsum("bgrqk,bkgd->bqgrd", [p, v]).reshape(b, n, -1)
)",
                 {.heads = 4}});
  all.push_back({"groups_by_broadcasting",
                 "bgrqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = torch.linear(x, self.wq).view(b, n, 2, 2, self.size).permute([0, 2, 3, 1, 4])
    k = self.heads(torch.linear(x, self.wk)).unsqueeze(2)
    v = self.heads(torch.linear(x, self.wv)).unsqueeze(2)
    p = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1)
    return torch.matmul(p, v).permute([0, 3, 1, 2, 4]).reshape(b, n, -1)
)",
                 {.heads = 4}});
  all.push_back({"groups_repeated",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q = self.heads(torch.linear(x, self.wq))
    k = self.heads(torch.linear(x, self.wk)).repeat_interleave(2, 1)
    v = self.heads(torch.linear(x, self.wv)).repeat_interleave(2, 1)
    return self.joined(torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1), v))
)",
                 {.heads = 4}});
  all.push_back({"groups_expanded",
                 "bhqk",
                 "eager",
                 R"(
def repeated(self, t: Tensor) -> Tensor:
    b, h, n, d = t.size(0), t.size(1), t.size(2), t.size(3)
    return t.unsqueeze(2).expand([b, h, 2, n, d]).reshape(b, h * 2, n, d)

def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q = self.heads(torch.linear(x, self.wq))
    k, v = self.repeated(self.heads(torch.linear(x, self.wk))), self.repeated(self.heads(torch.linear(x, self.wv)))
    return self.joined(torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1), v))
)",
                 {.heads = 4}});
  all.push_back({"queries_and_heads_in_one_dimension",
                 "bqhk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = torch.linear(x, self.wq).view(b, n * self.num_heads, self.size)
    k, v = torch.linear(x, self.wk), torch.linear(x, self.wv)
    s = torch.matmul(q, k.transpose(1, 2)).view(b, n, self.num_heads, n) * 0.5
    p = torch.softmax(s, -1).view(b, n * self.num_heads, n)
    return torch.matmul(p, v).view(b, n, -1)
)",
                 {.heads = 4, .key_heads = 1}});
  all.push_back({"key_times_query", "bhkq", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    p = torch.softmax(torch.matmul(k, q.transpose(-2, -1)) * 0.5, -2)
    return self.joined(torch.matmul(p.transpose(-2, -1), v))
)"});
  all.push_back({"heads_before_the_batch", "hbqk", "eager", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = torch.linear(x, self.wq).view(b, n, self.num_heads, self.size).permute([2, 0, 1, 3])
    k = torch.linear(x, self.wk).view(b, n, self.num_heads, self.size).permute([2, 0, 1, 3])
    v = torch.linear(x, self.wv).view(b, n, self.num_heads, self.size).permute([2, 0, 1, 3])
    p = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.5, -1)
    return torch.matmul(p, v).permute([1, 2, 0, 3]).reshape(b, n, -1)
)"});
  all.push_back({"one_head",
                 "bqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = torch.linear(x, self.wq), torch.linear(x, self.wk), torch.linear(x, self.wv)
    return torch.matmul(torch.softmax(torch.matmul(q, k.transpose(1, 2)) * 0.5, -1), v)
)",
                 {.heads = 1, .key_heads = 1}});
  all.push_back({"softmax_in_branches",
                 "bhqk",
                 "eager",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
    if bool(torch.any(keep == 0)):
        p = torch.softmax(s.masked_fill(keep.unsqueeze(1).unsqueeze(1) == 0, -1e9), -1)
    else:
        p = torch.softmax(s, -1)
    return self.joined(torch.matmul(p, v))
)",
                 {.masks_padding = true}});
  all.push_back({"fused_or_written_out",
                 "bhqk",
                 "sdpa",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    if bool(torch.all(keep == 1)):
        y = torch.scaled_dot_product_attention(q, k, v, scale=0.5)
    else:
        s = torch.matmul(q, k.transpose(-2, -1)) * 0.5
        y = torch.matmul(torch.softmax(s.masked_fill(keep.unsqueeze(1).unsqueeze(1) == 0, -1e9), -1), v)
    return self.joined(y)
)",
                 {.masks_padding = true}});
  all.push_back({"fused_with_a_boolean_mask",
                 "bhqk",
                 "sdpa",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    mask = keep.unsqueeze(1).unsqueeze(1) == 1
    return self.joined(torch.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5))
)",
                 {.masks_padding = true}});
  all.push_back({"fused_with_a_float_mask",
                 "bhqk",
                 "sdpa",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    mask = self.bias + (1.0 - keep.unsqueeze(1).unsqueeze(1).to(q.dtype)) * -1e9
    return self.joined(torch.scaled_dot_product_attention(q, k, v, mask, 0.0, False, scale=0.5))
)",
                 {.masks_padding = true, .has_bias = true}});
  all.push_back({"fused_causal_in_groups",
                 "bhqk",
                 "sdpa",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    causal = self.causal == 1
    return self.joined(torch.scaled_dot_product_attention(q, k, v, None, 0.0, causal, scale=0.5, enable_gqa=True))
)",
                 {.heads = 4, .causal = true}});
  all.push_back({"fused_with_the_default_scale", "mqk", "sdpa", R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    b, n = x.size(0), x.size(1)
    q = self.heads(torch.linear(x, self.wq)).reshape(b * self.num_heads, n, self.size)
    k = self.heads(torch.linear(x, self.wk)).reshape(b * self.num_heads, n, self.size)
    v = self.heads(torch.linear(x, self.wv)).reshape(b * self.num_heads, n, self.size)
    y = torch.scaled_dot_product_attention(q, k, v)
    return self.joined(y.view(b, self.num_heads, n, self.size))
)"});
  all.push_back({"decomposed",
                 "bhqk",
                 "sdpa",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    q, k, v = self.projected(x)
    y, sums = torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=0.5)
    return self.joined(y)
)",
                 {.causal = true}});
  all.push_back({"packed_projections",
                 "bhqk",
                 "mha",
                 R"(
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    weight = torch.cat([self.wq, self.wk, self.wv], 0)
    b, o, mask = torch.zeros([24]), torch.zeros([8]), keep == 0
    y, p = torch._native_multi_head_attention(x, x, x, 8, 2, weight, b, self.wq, o, mask, False, True, 1)
    return y
)",
                 {.masks_padding = true}});
  return all;
}

jit::Module model_of(const AttentionSpelling& spelling) {
  return model_around(module_source(spelling.code, spelling.facts.heads, spelling.facts.key_heads));
}

jit::Module model_of(const AttentionLookAlike& look_alike) {
  return model_around(module_source(look_alike.code, 2, 2));
}

at::Tensor expected_probabilities(const AttentionSpelling& spelling, const jit::Module& model, const at::Tensor& x,
                                  const at::Tensor& keep) {
  const jit::Module attention = model.attr("attn").toModule();
  const auto parameter = [&](const char* name) { return attention.attr(name).toTensor(); };
  const at::Tensor h = at::layer_norm(x, {kHidden});
  const auto heads = [&](const char* name, int64_t count) {
    return at::linear(h, parameter(name)).view({kBatch, kSequence, count, -1}).transpose(1, 2);
  };
  const at::Tensor query = heads("wq", spelling.facts.heads);
  const at::Tensor key =
      heads("wk", spelling.facts.key_heads).repeat_interleave(spelling.facts.heads / spelling.facts.key_heads, 1);
  at::Tensor scores = at::matmul(query, key.transpose(-2, -1)) * kScale;
  if (spelling.facts.soft_cap > 0) scores = at::tanh(scores / spelling.facts.soft_cap) * spelling.facts.soft_cap;
  if (spelling.facts.has_bias) scores = scores + parameter("bias");
  if (spelling.facts.masks_padding) scores = scores.masked_fill(keep.view({kBatch, 1, 1, kSequence}) == 0, -1e9);
  if (spelling.facts.causal) scores = scores.masked_fill(at::ones({kSequence, kSequence}, at::kBool).triu(1), -1e9);
  if (!spelling.facts.has_sinks) return scores.softmax(-1);
  const at::Tensor sinks = parameter("sinks").view({1, -1, 1, 1}).expand({kBatch, -1, kSequence, 1});
  return at::cat({scores, sinks}, -1).softmax(-1).slice(-1, 0, kSequence);
}

}  // namespace moetap::hooks::testing
