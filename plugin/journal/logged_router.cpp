#include "plugin/journal/logged_router.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <stdexcept>

namespace moetap::plugin {
namespace {

using analysis::RouterSums;

// What the log holds of each token of a router, for each part of the forward.
struct TokenLists {
  std::vector<std::vector<int32_t>> selected;
  std::vector<std::vector<float>> margins;
};

enum class TokensGo { kToTheirRow, kToTheFirstPart };
enum class MarginsOf { kAllTokens, kTheFirstRow };

TokenLists token_lists(const RouterRecord& router, size_t num_parts, TokensGo tokens_go, MarginsOf margins_of_tokens) {
  TokenLists lists{std::vector<std::vector<int32_t>>(num_parts), std::vector<std::vector<float>>(num_parts)};
  if (!router.selected.defined()) return lists;
  const at::Tensor selected = router.selected.contiguous();
  const at::Tensor margins = router.margins.defined() ? router.margins.contiguous() : at::Tensor();
  const at::Tensor rows = router.row.contiguous();
  const int64_t num_tokens = selected.size(0);
  const int64_t top_k = selected.size(1);
  const auto* ids = selected.const_data_ptr<int64_t>();
  const auto* row = rows.const_data_ptr<int64_t>();
  const float* margin = margins.defined() ? margins.const_data_ptr<float>() : nullptr;
  for (int64_t token = 0; token < num_tokens; ++token) {
    const size_t part = tokens_go == TokensGo::kToTheirRow ? static_cast<size_t>(row[token]) : 0;
    if (tokens_go == TokensGo::kToTheirRow && (row[token] < 0 || part >= num_parts)) continue;
    lists.selected[part].insert(lists.selected[part].end(), ids + token * top_k, ids + (token + 1) * top_k);
    const bool wanted = margins_of_tokens == MarginsOf::kAllTokens || row[token] <= 0;
    if (margin != nullptr && wanted) lists.margins[part].push_back(margin[token]);
  }
  return lists;
}

RouterSums without_pairs(const RouterSums& sums) {
  if (!sums.has_pairs) return sums;
  RouterSums rows = sums;
  rows.has_pairs = false;
  rows.words = sums.words.narrow(0, 0, sums.layout().pairs_begin());
  return rows;
}

// Sets the number of slots. Sums of one slot have no pairs: with `has_pairs` they get a table of zeros.
void set_top_k(RouterSums& sums, int64_t top_k, bool has_pairs) {
  sums.top_k = top_k;
  if (sums.has_pairs || !has_pairs) return;
  sums.has_pairs = true;
  const at::Tensor rows = sums.words;
  sums.words = at::zeros({sums.layout().words()}, at::kLong);
  sums.words.narrow(0, 0, rows.numel()).copy_(rows);
}

std::span<const int64_t> values_of(const at::Tensor& words) {
  return {words.const_data_ptr<int64_t>(), static_cast<size_t>(words.numel())};
}

std::span<int64_t> places_of(at::Tensor& words) {
  return {words.mutable_data_ptr<int64_t>(), static_cast<size_t>(words.numel())};
}

void encode(ByteWriter& bytes, const RouterSums& sums) {
  bytes.count(static_cast<uint64_t>(sums.num_experts));
  bytes.count(static_cast<uint64_t>(sums.top_k));
  bytes.count(static_cast<uint64_t>(sums.num_rows));
  bytes.count(sums.has_pairs);
  const at::Tensor words = sums.words.contiguous();
  bytes.count(static_cast<uint64_t>(words.numel()));
  bytes.sparse(values_of(words));
}

RouterSums decode_sums(ByteReader& bytes) {
  RouterSums sums;
  sums.num_experts = static_cast<int64_t>(bytes.count());
  sums.top_k = static_cast<int64_t>(bytes.count());
  sums.num_rows = static_cast<int64_t>(bytes.count());
  sums.has_pairs = bytes.count() != 0;
  const auto words = static_cast<int64_t>(bytes.count());
  const auto expected = sums.has_pairs ? sums.layout().words() : sums.layout().pairs_begin();
  if (words != expected) throw std::runtime_error("a frame of the journal holds sums of a wrong size");
  sums.words = at::empty({words}, at::kLong);
  bytes.sparse(places_of(sums.words));
  return sums;
}

}  // namespace

SplitRouter split_router(const RouterRecord& router, size_t layer, size_t num_parts, PartsAre parts_are,
                         bool per_token) {
  const bool by_sample = parts_are == PartsAre::kSamples;
  const bool split = by_sample && router.attributed && router.sums.num_rows == static_cast<int64_t>(num_parts);
  const bool to_rows = split && num_parts > 1;
  TokenLists lists;
  if (per_token) {
    lists = token_lists(router, split ? num_parts : 1, to_rows ? TokensGo::kToTheirRow : TokensGo::kToTheFirstPart,
                        !by_sample && router.attributed ? MarginsOf::kTheFirstRow : MarginsOf::kAllTokens);
  }
  lists.selected.resize(num_parts);
  lists.margins.resize(num_parts);
  const auto logged = [&](RouterSums sums, size_t part) {
    return LoggedRouter{layer, std::move(sums), std::move(lists.selected[part]), std::move(lists.margins[part])};
  };
  SplitRouter result;
  if (to_rows) {
    for (size_t i = 0; i < num_parts; ++i) {
      result.parts.push_back(logged(select_row(router.sums, static_cast<int64_t>(i)), i));
    }
  } else if (!by_sample) {
    result.parts.push_back(logged(without_pairs(router.sums), 0));
  } else {
    (num_parts == 1 ? result.parts : result.shared).push_back(logged(sum_rows(without_pairs(router.sums)), 0));
  }
  return result;
}

void add_call(LoggedRouter& into, const LoggedRouter& from) {
  add_sums(into.sums, from.sums);
  // Of some tokens only, a list would not say of which: weights may have been withheld from some forward on.
  const bool has_tokens = !into.selected.empty() && !from.selected.empty();
  if (has_tokens && into.margins.empty() != from.margins.empty()) {
    into.margins.clear();
  } else {
    into.margins.insert(into.margins.end(), from.margins.begin(), from.margins.end());
  }
  into.selected.insert(into.selected.end(), from.selected.begin(), from.selected.end());
}

void add_call(RouterTotal& into, const RouterTotal& from) {
  add_sums(into.sums, from.sums);
}

template <typename Router>
void add_router(std::vector<Router>& routers, Router router) {
  const auto same =
      std::find_if(routers.begin(), routers.end(), [&](const Router& known) { return known.layer == router.layer; });
  if (same == routers.end()) {
    routers.push_back(std::move(router));
  } else {
    add_call(*same, router);
  }
}
template void add_router(std::vector<LoggedRouter>&, LoggedRouter);
template void add_router(std::vector<RouterTotal>&, RouterTotal);

void add_sums(RouterSums& into, const RouterSums& from) {
  if (!into.defined() || !from.defined()) {
    merge(into, from);
    return;
  }
  RouterSums addend = from;
  if (into.num_rows != addend.num_rows) {
    into = sum_rows(into);
    addend = sum_rows(addend);
  }
  const int64_t top_k = std::max(into.top_k, addend.top_k);
  const bool has_pairs = into.has_pairs || addend.has_pairs;
  set_top_k(into, top_k, has_pairs);
  set_top_k(addend, top_k, has_pairs);
  merge(into, addend);
}

void encode(ByteWriter& bytes, const std::vector<LoggedRouter>& routers) {
  bytes.count(routers.size());
  for (const LoggedRouter& router : routers) {
    bytes.count(router.layer);
    encode(bytes, router.sums);
    bytes.numbers(router.selected);
    bytes.reals(router.margins);
  }
}

std::vector<LoggedRouter> decode_logged_routers(ByteReader& bytes) {
  std::vector<LoggedRouter> routers;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    LoggedRouter router;
    router.layer = bytes.count();
    router.sums = decode_sums(bytes);
    router.selected = bytes.numbers();
    router.margins = bytes.reals();
    routers.push_back(std::move(router));
  }
  return routers;
}

void encode(ByteWriter& bytes, const std::vector<RouterTotal>& routers) {
  bytes.count(routers.size());
  for (const RouterTotal& router : routers) {
    bytes.count(router.layer);
    encode(bytes, router.sums);
  }
}

std::vector<RouterTotal> decode_router_totals(ByteReader& bytes) {
  std::vector<RouterTotal> routers;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    RouterTotal router;
    router.layer = bytes.count();
    router.sums = decode_sums(bytes);
    routers.push_back(std::move(router));
  }
  return routers;
}

void encode_pairs(ByteWriter& bytes, const std::vector<RouterTotal>& routers) {
  bytes.count(routers.size());
  for (const RouterTotal& router : routers) {
    const RouterSums& sums = router.sums;
    bytes.count(router.layer);
    bytes.count(sums.has_pairs ? static_cast<uint64_t>(sums.num_experts) : 0);
    if (!sums.has_pairs) continue;
    const at::Tensor pairs = sums.words.narrow(0, sums.layout().pairs_begin(), sums.layout().pair_words()).contiguous();
    bytes.sparse(values_of(pairs));
  }
}

std::vector<RouterTotal> decode_pairs(ByteReader& bytes) {
  std::vector<RouterTotal> routers;
  for (uint64_t left = bytes.count(); left > 0; --left) {
    RouterTotal router;
    router.layer = bytes.count();
    router.sums.num_experts = static_cast<int64_t>(bytes.count());
    router.sums.has_pairs = router.sums.num_experts > 0;
    if (router.sums.has_pairs) {
      router.sums.top_k = 2;  // the fewest that have pairs; the parts hold the real number
      router.sums.words = at::empty({router.sums.layout().pair_words()}, at::kLong);
      bytes.sparse(places_of(router.sums.words));
    }
    routers.push_back(std::move(router));
  }
  return routers;
}

void complete_totals(std::vector<RouterTotal>& totals, const std::vector<const std::vector<LoggedRouter>*>& parts) {
  std::map<size_t, RouterSums> rows;  // by layer
  for (const auto* routers : parts) {
    for (const LoggedRouter& router : *routers) add_sums(rows[router.layer], sum_rows(router.sums));
  }
  for (RouterTotal& total : totals) {
    RouterSums& sums = rows[total.layer];
    const bool fits =
        sums.defined() && (!total.sums.has_pairs || (total.sums.num_experts == sums.num_experts && sums.top_k > 1));
    if (!fits) throw std::runtime_error("a frame of the journal holds pairs of a router that is in none of its parts");
    if (total.sums.has_pairs) {
      sums.words = at::cat({sums.words, total.sums.words});
      sums.has_pairs = true;
    }
    total.sums = std::move(sums);
  }
}

}  // namespace moetap::plugin
