import Platter
package import PlatterCore

/// The format that `-O` or `create -f` names, and its options from `-o`.
package enum TargetFormat {
  /// The format with this name that new images can have.
  /// - Throws: for a name that nobody knows, and for a format that cannot be made.
  package static func named(_ name: String, file: String? = nil) throws(Failure) -> any CreatableFormat.Type {
    let prefix = file.map { "\($0): " } ?? ""
    guard !readOnly.contains(name) else {
      throw Failure("\(prefix)Format driver '\(name)' does not support image creation")
    }
    guard SupportedFormats.names.contains(name) || SupportedFormats.planned.contains(name) else {
      throw Failure("\(prefix)Unknown file format '\(name)'")
    }
    for format in Formats.all where format.name == name {
      if let creatable = format as? any CreatableFormat.Type { return creatable }
    }
    throw Failure("\(prefix)not supported yet by platter: writing the format '\(name)'")
  }

  /// Formats that QEMU knows and cannot make.
  private static let readOnly: Set<String> = ["bochs", "cloop", "dmg"]

  /// All `-o` lists as one; the last of equal keys wins.
  package static func options(_ lists: [String]) throws(Failure) -> [String: String] {
    var result: [String: String] = [:]
    for list in lists {
      guard isWhole(list) else { throw Failure("Invalid option list: \(list)") }
      for pair in OptionString.parse(list) { result[pair.key] = pair.value ?? "on" }
    }
    return result
  }

  /// The options with the data file's name as it will stand in the image, without `file:`.
  static func withPlainNames(_ options: [String: String]) -> [String: String] {
    var options = options
    options["data_file"] = options["data_file"].map {
      String(decoding: ImageSource.withoutFilePrefix(Array($0.utf8)), as: UTF8.self)
    }
    return options
  }

  /// Whether a list neither begins nor ends with a comma that parts nothing.
  private static func isWhole(_ list: String) -> Bool {
    let commasAtEnd = list.reversed().prefix { $0 == "," }.count
    return !list.isEmpty && !list.hasPrefix(",") && commasAtEnd.isMultiple(of: 2)
  }

  /// Prints the options of the target's format where `-o help` asks for them. Returns whether it did.
  package static func writeHelp(_ call: Invocation, _ format: String, isForFile: Bool) throws(Failure) -> Bool {
    guard
      call.options.values("o").contains(where: {
        OptionString.parse($0).contains { $0.key == "help" || $0.key == "?" }
      })
    else { return false }
    let options = try named(format).creationOptions.filter {
      (isForFile || !$0.isForFileSystem) && !($0.isOwn && call.program.isDropIn)
    }
    call.output.write(line: isForFile ? "Supported options:" : "Supported \(format) options:")
    for option in options.sorted(by: { $0.name < $1.name }) {
      write(option, to: call.output)
    }
    guard !isForFile else { return true }
    call.output.write("\nThe protocol level may support further options.\n" as StaticString)
    call.output.write("Specify the target filename to include those options.\n" as StaticString)
    return true
  }

  /// A line of the list of options.
  package static func write(_ option: CreationOption, to output: Output) {
    let type =
      switch option.kind {
      case .size: "size"
      case .flag: "bool (on/off)"
      case .number: "num"
      case .text: "str"
      }
    output.write(line: "  " + HumanText.left("\(option.name)=<\(type)>", 22) + " - " + option.help)
  }
}

/// The names of formats that this version opens.
package enum SupportedFormats {
  package static var names: [String] { Formats.all.map { $0.name }.sorted() }
  package static let planned: Set<String> = ["qcow2", "qed", "vmdk", "vhdx", "dmg", "luks"]
}
