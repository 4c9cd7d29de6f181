import TestSupport
import WriterProof

/// Key slots of LUKS inside qcow2.
extension TurnModel {
  /// Any of the passphrases that open the disk.
  func chooseKey(_ random: inout SeededGenerator) {
    if let key = Set(slots.values).sorted().randomElement(using: &random) { image.key = key }
  }

  /// Adds a passphrase, or takes one away. The last one stays.
  func changeKeys(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    guard !slots.isEmpty, let key = TurnImage.keys.randomElement(using: &random) else { return }
    let slot = random.chance(2) ? nil : Int.random(in: 0..<8, using: &random)
    let old = slots
    var options = slot.map { ["keyslot=\($0)"] } ?? []
    if random.chance(2) {
      options += ["state=active", "new-secret=\(key)", "iter-time=1"]
      if let place = slot ?? (0..<8).first(where: { slots[$0] == nil }), slots[place] == nil { slots[place] = key }
    } else {
      options.append("state=inactive")
      if slot == nil { options.append("old-secret=\(key)") }
      slots = slots.filter { used in slot.map { used.key != $0 } ?? (used.value != key) }
      if slots.isEmpty { slots = old }
    }
    let list = options.map { "encrypt." + $0 }.joined(separator: ",")
    guard try take(side, image.words("amend", ["-o", list])) == (slots != old) else {
      throw WriterFault("key slots \(old.description) were to become \(slots.description)")
    }
    chooseKey(&random)
    for key in TurnImage.keys { try checkKey(key) }
  }

  /// Both programs open the disk with a passphrase, or both do not.
  private func checkKey(_ key: String) throws {
    var image = image
    image.key = key
    for side in TurnSide.allCases {
      let opens = try side.run(.qemuIO, image.requests(["read -q 0 512"]), in: folder).succeeded
      guard opens == slots.values.contains(key) else {
        throw WriterFault("\(key) \(opens ? "opens" : "does not open") the disk for \(side)")
      }
    }
  }
}
