#include "analysis/studies/hypergeometric.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace moetap::analysis::studies {
namespace {

constexpr double kLogTwoPi = 1.8378770664093454836;  // ln(2 pi)

/// ln n! − ln(sqrt(2 pi n) (n / e)^n), the error of Stirling's formula.
double stirling_error(double n) {
  if (n < 16) {  // the series below needs a large n
    return std::lgamma(n + 1) - ((n + 0.5) * std::log(n) - n + 0.5 * kLogTwoPi);
  }
  const double square = 1 / (n * n);
  return (1.0 / 12 - square * (1.0 / 360 - square * (1.0 / 1260 - square * (1.0 / 1680 - square / 1188)))) / n;
}

/// x ln(x / mean) + mean − x, without the cancellation of that formula where x is near the mean.
double deviance(double x, double mean) {
  if (std::abs(x - mean) < 0.1 * (x + mean)) {
    const double ratio = (x - mean) / (x + mean), square = ratio * ratio;
    double sum = (x - mean) * ratio, power = 2 * x * ratio;
    for (int term = 1; term < 1000; ++term) {
      power *= square;
      const double next = sum + power / (2 * term + 1);
      if (next == sum) break;
      sum = next;
    }
    return sum;
  }
  return x * std::log(x / mean) + mean - x;
}

/// ln of the binomial probability of `count` out of n with share p; q = 1 − p.
double log_binomial(double count, double n, double p, double q) {
  if (count == 0) return n == 0 ? 0 : (p < 0.1 ? -deviance(n, n * q) - n * p : n * std::log(q));
  if (count == n) return q < 0.1 ? -deviance(n, n * p) - n * q : n * std::log(p);
  const double exponent = stirling_error(n) - stirling_error(count) - stirling_error(n - count) -
                          deviance(count, n * p) - deviance(n - count, n * q);
  return exponent - 0.5 * (kLogTwoPi + std::log(count) + std::log1p(-count / n));
}

/// The sum of P(X = k) / P(X = count) over k = count, count + step, ...; the terms must fall.
double relative_tail(const Hypergeometric& of, int64_t count, int64_t step) {
  const auto population = static_cast<double>(of.population), marked = static_cast<double>(of.marked);
  const auto drawn = static_cast<double>(of.drawn);
  double sum = 1, term = 1;
  for (auto k = static_cast<double>(count);; k += static_cast<double>(step)) {
    const double missing = population - marked - drawn;
    term *= step > 0 ? (marked - k) * (drawn - k) / ((k + 1) * (missing + k + 1))
                     : k * (missing + k) / ((marked - k + 1) * (drawn - k + 1));
    if (!(term > sum * 1e-18)) return sum;
    sum += term;
  }
}

}  // namespace

double log_probability(const Hypergeometric& of, int64_t count) {
  constexpr double kImpossible = -std::numeric_limits<double>::infinity();
  const int64_t unmarked = of.population - of.marked;
  if (count < 0 || count > of.marked || count > of.drawn || of.drawn - count > unmarked) return kImpossible;
  if (of.drawn == 0 || of.drawn == of.population) return 0;
  const double p = static_cast<double>(of.drawn) / static_cast<double>(of.population);
  const double q = static_cast<double>(of.population - of.drawn) / static_cast<double>(of.population);
  return log_binomial(static_cast<double>(count), static_cast<double>(of.marked), p, q) +
         log_binomial(static_cast<double>(of.drawn - count), static_cast<double>(unmarked), p, q) -
         log_binomial(static_cast<double>(of.drawn), static_cast<double>(of.population), p, q);
}

double log_upper_tail(const Hypergeometric& of, int64_t count) {
  const int64_t least = std::max<int64_t>(0, of.drawn - (of.population - of.marked));
  if (count <= least) return 0;
  if (count > std::min(of.marked, of.drawn)) return -std::numeric_limits<double>::infinity();
  const double mode = (static_cast<double>(of.marked) + 1) * (static_cast<double>(of.drawn) + 1) /
                      (static_cast<double>(of.population) + 2);
  if (static_cast<double>(count) >= mode) {
    return std::min(0.0, log_probability(of, count) + std::log(relative_tail(of, count, 1)));
  }
  const double lower = std::exp(log_probability(of, count - 1)) * relative_tail(of, count - 1, -1);
  return std::log1p(-std::min(lower, 1.0));
}

std::vector<double> adjust_log_p_values(std::span<const double> log_p_values) {
  std::vector<size_t> order(log_p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return log_p_values[a] != log_p_values[b] ? log_p_values[a] < log_p_values[b] : a < b;
  });
  std::vector<double> adjusted(log_p_values.size());
  const double log_tests = std::log(static_cast<double>(order.size()));
  double least = 0;
  for (size_t rank = order.size(); rank > 0; --rank) {
    const size_t test = order[rank - 1];
    least = std::min(least, log_p_values[test] + (log_tests - std::log(static_cast<double>(rank))));
    adjusted[test] = least;
  }
  return adjusted;
}

}  // namespace moetap::analysis::studies
