/// Help, printed from the tables of options.
package enum Help {
  package static func write(_ program: ProgramName, to output: Output) {
    output.write(line: program.versionLine)
    output.write(line: "usage: \(program.rawValue) [standard options] command [command options]")
    output.write(line: "Virtual disk images: look, check, compare, convert")
    output.write(line: "")
    output.write(line: "    '-h', '--help'       display this help and exit")
    output.write(line: "    '-V', '--version'    output version information and exit")
    output.write(line: "")
    output.write(line: "Command syntax:")
    for verb in Verbs.all { output.write(line: "  " + usage(verb, program)) }
    output.write(line: "")
    output.write(line: "'\(program.rawValue) COMMAND --help' explains a command.")
    output.write(line: "Sizes take the suffixes k, M, G, T, P, E.")
    output.write(line: "")
    output.write(line: "Supported formats: " + SupportedFormats.names.joined(separator: " "))
  }

  package static func write(_ verb: any Verb.Type, _ program: ProgramName, to output: Output) {
    // Under the name `qemu-io` the program is this one verb.
    let name = program == .qemuIO ? program.rawValue : "\(program.rawValue) \(verb.name)"
    output.write(line: "usage: \(name) [options] \(verb.operands)")
    output.write(line: verb.summary)
    output.write(line: "")
    for spec in Verbs.options(of: verb, program) {
      output.write(line: "  " + HumanText.left(names(spec), 34) + " " + spec.help)
    }
  }

  private static func names(_ spec: OptionSpec) -> String {
    var names: [String] = []
    if let short = spec.short { names.append("-\(short)") }
    if let long = spec.long { names.append("--\(long)") }
    guard case .required(let value) = spec.argument else { return names.joined(separator: ", ") }
    return names.joined(separator: ", ") + " " + value
  }

  private static func usage(_ verb: any Verb.Type, _ program: ProgramName) -> String {
    var words = [verb.name]
    for spec in Verbs.options(of: verb, program) where spec.key != "help" {
      var word = spec.short.map { "-\($0)" } ?? "--\(spec.long ?? "")"
      if case .required(let value) = spec.argument { word += (spec.short == nil ? "=" : " ") + value.lowercased() }
      words.append("[\(word)]")
    }
    return (words + [verb.operands.lowercased()]).joined(separator: " ")
  }
}
