#include "cli/report/page_writer.h"

#include <fmt/format.h>

#include <string_view>

#include "cli/inputs/sha256.h"
#include "cli/report/base64.h"
#include "plugin/formats/json_text.h"
#include "report/page_assets.h"

namespace moetap::cli {
namespace {

/// How a policy names a script: the hash of its text.
std::string hash_of(std::string_view script) {
  return fmt::format("'sha256-{}'", base64(bytes_of_hex(sha256_of_text(std::string(script)))));
}

/// The template with each @NAME@ of `values` replaced. Text that was put in is not looked at again.
std::string filled(std::string_view page, const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string text;
  while (!page.empty()) {
    size_t first = page.size();
    const std::pair<std::string_view, std::string>* next = nullptr;
    for (const auto& value : values) {
      const size_t place = page.find(value.first);
      if (place < first) {
        first = place;
        next = &value;
      }
    }
    text += page.substr(0, first);
    if (next == nullptr) break;
    text += next->second;
    page.remove_prefix(first + next->first.size());
  }
  return text;
}

}  // namespace

std::string json_for_html(const nlohmann::ordered_json& data) {
  const std::string text = plugin::compact_text(data);
  std::string safe;
  safe.reserve(text.size() + text.size() / 64);
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    // These stand in strings only, where an escape means the same.
    if (c == '<') {
      safe += "\\u003c";
    } else if (c == '>') {
      safe += "\\u003e";
    } else if (c == '&') {
      safe += "\\u0026";
    } else if (text.compare(i, 3, "\xe2\x80\xa8") == 0 || text.compare(i, 3, "\xe2\x80\xa9") == 0) {
      safe += text[i + 2] == '\xa8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string html_text(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string report_page(const std::string& title, const nlohmann::ordered_json& data, PageConnections connections) {
  std::string hashes, scripts;
  for (const report::PageScript& script : report::page_scripts()) {
    hashes += ' ';
    hashes += hash_of(script.text);
    scripts += "<script>";
    scripts += script.text;
    scripts += "</script>\n";
  }
  // Plotly sets styles of elements; data: and blob: are pictures of the page's own making.
  const std::string policy = fmt::format(
      "default-src 'none'; script-src{}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action "
      "'none'{}",
      hashes, connections == PageConnections::kServer ? "; connect-src 'self'" : "");
  return filled(report::page_template(), {{"@POLICY@", policy},
                                          {"@TITLE@", html_text(title)},
                                          {"@STYLE@", std::string(report::page_style())},
                                          {"@DATA@", json_for_html(data)},
                                          {"@SCRIPTS@", scripts}});
}

}  // namespace moetap::cli
