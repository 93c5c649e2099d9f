#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moetap::analysis::studies {

/// Drawing `drawn` of `population` tokens, of which `marked` are marked.
struct Hypergeometric {
  int64_t population = 0, marked = 0, drawn = 0;
};

/// ln P(X = count), −infinity if it cannot happen. Relative error of P some 1e-13 also where it underflows a double.
/// Source: Loader, "Fast and accurate computation of binomial probabilities" (2000).
double log_probability(const Hypergeometric& of, int64_t count);

/// ln P(X >= count). The smaller tail is summed, so it costs some standard deviations of X in terms.
double log_upper_tail(const Hypergeometric& of, int64_t count);

/// Adjusts p-values, given as logarithms, for many tests: the share of false discoveries at which each would be called
/// one, p(i) = min over j >= i of p(j) * n / j, at most 1. Same order as given.
/// Source: Benjamini, Hochberg, "Controlling the false discovery rate", J. R. Statist. Soc. B 57 (1995).
std::vector<double> adjust_log_p_values(std::span<const double> log_p_values);

}  // namespace moetap::analysis::studies
