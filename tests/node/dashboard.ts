// Types of the dashboard: Grafana's own, made strict. The test writes the JSON of the dashboard as constants of
// these types. tsc then reports unknown fields and wrong types, with their place.

import type {
  AnnotationQuery,
  Dashboard,
  DataQuery,
  FieldConfig,
  Panel,
  RowPanel,
  VariableModel,
} from '@grafana/schema';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Logs from '@grafana/schema/dist/esm/raw/composable/logs/panelcfg/x/LogsPanelCfg_types.gen';
import type { LokiDataQuery } from '@grafana/schema/dist/esm/raw/composable/loki/dataquery/x/LokiDataQuery_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as Text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has the values of enumerations as plain strings.
type Plain<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends number | boolean | null | undefined
      ? T
      : T extends Array<infer Item>
        ? Array<Plain<Item>>
        : T extends object
          ? { [Key in keyof T]: Plain<T[Key]> }
          : T;

interface Source<Type extends string, Uid extends string> {
  type: Type;
  uid: Uid;
}
type Prometheus = Source<'prometheus', '${datasource}'>;
type Loki = Source<'loki', '${loki}'>;

// @grafana/schema has no query of Prometheus. These are the fields of @grafana/prometheus.
interface PrometheusQuery extends Omit<DataQuery, 'datasource' | 'queryType'> {
  expr: string;
  instant?: boolean;
  range?: boolean;
  exemplar?: boolean;
  editorMode?: 'code' | 'builder';
  format?: 'time_series' | 'table' | 'heatmap';
  legendFormat?: string;
  intervalFactor?: number;
  interval?: string;
}
type LokiQuery = Omit<LokiDataQuery, 'datasource' | 'queryType'> & {
  queryType: 'range' | 'instant' | 'stream';
};

// Grafana accepts any extra field in `custom`, and any value in `value`. The dashboard uses only known ones.
type Defaults<Custom> = Omit<FieldConfig, 'custom' | 'links'> & { custom?: Custom };
type Property<Custom> =
  | { [Key in keyof Defaults<Custom> & string]-?: { id: Key; value: Defaults<Custom>[Key] } }[
      keyof Defaults<Custom> & string]
  | { [Key in keyof Custom & string]-?: { id: `custom.${Key}`; value: Custom[Key] } }[keyof Custom & string];
interface Fields<Custom> {
  defaults: Defaults<Custom>;
  overrides: Array<{
    matcher: { id: 'byName' | 'byRegexp'; options: string };
    properties: Array<Property<Custom>>;
  }>;
}
type PanelOf<Type extends string, DataSource, Query, Options, Custom> = Plain<
  Omit<Panel, 'type' | 'title' | 'description' | 'datasource' | 'targets' | 'options' | 'fieldConfig'> & {
    type: Type;
    title: string;
    description: string;
    datasource: DataSource;
    targets: Query[];
    options: Options;
    fieldConfig: Fields<Custom>;
  }
>;
type None = Record<string, never>;

export interface Panels {
  row: Plain<RowPanel>;
  text: Plain<Omit<Panel, 'options' | 'fieldConfig' | 'targets'> & { type: 'text'; options: Text.Options }>;
  stat: PanelOf<'stat', Prometheus, PrometheusQuery, Stat.Options, None>;
  bargauge: PanelOf<'bargauge', Prometheus, PrometheusQuery, BarGauge.Options, None>;
  timeseries: PanelOf<'timeseries', Prometheus, PrometheusQuery, TimeSeries.Options, TimeSeries.FieldConfig>;
  logs: Omit<PanelOf<'logs', Loki, LokiQuery, Logs.Options, None>, 'fieldConfig'>;
}

type Query =
  | { datasource: Prometheus; query: { query: string; refId: string; qryType: number } }
  | { datasource: Loki; query: { label: string; refId: string; stream: string; type: number } };
export type QueryVariable = Plain<Omit<VariableModel, 'datasource' | 'query'> & { type: 'query' } & Query>;
export type DatasourceVariable = Plain<
  Omit<VariableModel, 'datasource' | 'query'> & { type: 'datasource'; query: 'prometheus' | 'loki' }
>;
export type Annotation = Plain<AnnotationQuery<PrometheusQuery>>;
export type Board = Plain<Omit<Dashboard, 'panels' | 'templating' | 'annotations'>>;
