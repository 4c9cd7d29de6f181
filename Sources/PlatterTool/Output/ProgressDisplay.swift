import CPlatter
import Synchronization

/// How far an operation is, for people or for programs. Safe from any thread.
///
/// Without `-p` it is silent until a SIGUSR1 asks; then it shows one figure, as QEMU's programs do.
package final class ProgressDisplay: Sendable {
  package enum Form: String, Sendable, CaseIterable {
    case none, human, json
  }

  private let form: Form
  /// 2 where standard output carries data.
  private let descriptor: Int32
  /// Smallest step shown, in percent.
  private let step: Double
  private let shown = Mutex(-Double.infinity)

  package init(_ form: Form, toStandardError: Bool = false, step: Double = 1) {
    self.form = form
    descriptor = toStandardError || form == .json ? 2 : 1
    self.step = step
  }

  package func start() { update(0, of: 1) }

  /// Tells of `done` of `total`. Cheap where there is nothing new to show.
  package func update(_ done: UInt64, of total: UInt64) {
    let isAsked = platter_take_progress_request() != 0
    guard form != .none || isAsked else { return }
    let percent = total == 0 ? 100 : min(100, Double(done) / Double(total) * 100)
    shown.withLock { shown in
      let isNews = form != .none && (percent >= shown + step || (percent == 100 && shown < 100))
      guard isAsked || isNews else { return }
      shown = max(shown, percent)
      show(percent)
    }
  }

  /// The operation is over; a line of figures gets its end.
  package func finish(succeeded: Bool) {
    if succeeded { update(1, of: 1) }
    guard form == .human else { return }
    let output = Output(descriptor: descriptor)
    output.write("\n" as StaticString)
    output.flush()
  }

  private func show(_ percent: Double) {
    let output = Output(descriptor: descriptor)
    let digits = HumanText.twoDecimals(percent)
    if form == .json {
      output.write("{\"progress\": \(digits)}\n")
    } else {
      output.write("    (\(digits)/100%)\r")
    }
    output.flush()
  }
}
