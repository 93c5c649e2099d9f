#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "plugin/formats/atomic_file.h"

namespace moetap::cli {

/// Whom a page may connect to. `kServer`: whence it came, for --watch.
enum class PageConnections { kNone, kServer };

/// A page of HTML that needs nothing but itself: the template, the style, the scripts and the data (docs/report.md).
/// Its content security policy allows these scripts, by their hashes, and no other, and no connection but those asked
/// for. `data` is put in so that no text in it ends its element or begins a comment.
std::string report_page(const std::string& title, const nlohmann::ordered_json& data,
                        PageConnections connections = PageConnections::kNone);

/// JSON for an element of HTML: compact, with <, > and & and the line breaks of JavaScript escaped.
std::string json_for_html(const nlohmann::ordered_json& data);

/// Text for an element or an attribute of HTML.
std::string html_text(const std::string& text);

}  // namespace moetap::cli
