"""The panels' style sheet, sent once with each panel; colors follow the notebook's theme."""

CSS = """<style>
.ftlab-panel { color: var(--jp-ui-font-color1, #24303c); overflow: hidden; }
.ftlab-panel .widget-html, .ftlab-panel .widget-html-content {
  margin: 0; height: auto; min-height: 0; line-height: 1.35; }
.ftlab-panel .ftlab-controls { padding: 0 18px 0 2px; overflow: hidden; }
.ftlab-group { font-weight: 600; font-size: 12.5px; margin: 7px 0 3px; padding-bottom: 2px;
  border-bottom: 1px solid var(--jp-border-color2, #e4e8ec); }
.ftlab-controls .widget-html:first-child .ftlab-group { margin-top: 0; }
.ftlab-help { font-size: 11.5px; color: var(--jp-ui-font-color2, #5b6773); }
.ftlab-controls .ftlab-help { margin-bottom: 5px; }
.ftlab-control.ftlab-control { flex-flow: row wrap; align-content: flex-start;
  align-items: center; height: auto; min-height: 0; margin: 0; }
.ftlab-control > .widget-label { order: 0; flex: 1 1 auto; width: auto !important; min-width: 0;
  margin: 0; height: 18px; line-height: 18px; text-align: left; font-size: 12px;
  font-family: var(--jp-code-font-family, monospace); }
.ftlab-control > .widget-readout { order: 1; min-width: 60px; height: 18px; line-height: 18px;
  margin: 0; padding: 0; overflow: visible; text-align: right; font-size: 12px;
  font-variant-numeric: tabular-nums; }
.ftlab-control > .slider-container { order: 2; flex: 1 0 100%; box-sizing: border-box;
  height: 17px; margin: 0; padding: 6px 8px; }
.ftlab-control > select { order: 1; flex: 0 1 128px; height: 22px; margin: 1px 0; }
.ftlab-button { margin: 0 6px 4px 0 !important; }
.ftlab-status, .ftlab-bad { font-size: 13px; padding: 4px 0; min-height: 18px;
  overflow-wrap: anywhere; }
.ftlab-bad { color: #a33a00; font-weight: 600; }
.ftlab-readout { display: grid; grid-template-columns: repeat(8, auto); gap: 0 10px;
  margin: 0 0 6px; }
.ftlab-readout span { display: block; font-size: 11px;
  color: var(--jp-ui-font-color2, #5b6773); }
.ftlab-readout b { font-size: 12.5px; font-weight: 600; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.ftlab-answers { border-collapse: collapse; width: 100%; table-layout: fixed; font-size: 12px;
  margin-top: 4px; }
.ftlab-answers th, .ftlab-answers td { text-align: left; vertical-align: top;
  padding: 4px 8px 4px 0; white-space: normal; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--jp-border-color2, #e4e8ec); }
.ftlab-copy { display: block; width: 100%; box-sizing: border-box; font-size: 12px;
  font-family: var(--jp-code-font-family, monospace); }
</style>"""
